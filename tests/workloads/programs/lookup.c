/* Looks a host up with the C library's resolver: built with musl, as programs of Alpine images are. */
#include <netdb.h>
#include <stdio.h>

int main(int count, char **words) {
    struct addrinfo *found;
    int error = getaddrinfo(count > 1 ? words[1] : "a.example", "80", 0, &found);
    if (error) fprintf(stderr, "%s\n", gai_strerror(error));
    return error ? 7 : 0;
}
