/* Two MPI processes of one host pass a message that is large enough for a single copy (process_vm_readv) where there is one. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { COUNT = 1 << 20 };

int main(int argc, char **argv) {
    int rank, wrong = 0;
    int *numbers = malloc(COUNT * sizeof *numbers);
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    for (int i = 0; i < COUNT; i++) numbers[i] = rank == 0 ? i : -1;
    if (rank == 0) MPI_Send(numbers, COUNT, MPI_INT, 1, 0, MPI_COMM_WORLD);
    if (rank == 1) {
        MPI_Recv(numbers, COUNT, MPI_INT, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        for (int i = 0; i < COUNT; i++) wrong += numbers[i] != i;
        printf("passed %d, wrong %d\n", COUNT, wrong);
    }
    MPI_Finalize();
    return 0;
}
