/* A name service with one user and two groups, in none of the files below /etc (nss(5), the GNU C library's manual, "Extending NSS"). */
#include <errno.h>
#include <grp.h>
#include <nss.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

#define NAME "directory-researcher"
#define ID 71234
#define PROJECT "directory-px"
#define PROJECT_ID 71300

static enum nss_status user(struct passwd *found)
{
    found->pw_name = NAME;
    found->pw_passwd = "*"; /* with "x", PAM would ask for a line of shadow */
    found->pw_uid = ID;
    found->pw_gid = ID;
    found->pw_gecos = "";
    found->pw_dir = HOME;
    found->pw_shell = "/bin/sh";
    return NSS_STATUS_SUCCESS;
}

enum nss_status _nss_cestest_getpwnam_r(const char *name, struct passwd *found, char *buffer, size_t size, int *error)
{
    return strcmp(name, NAME) ? NSS_STATUS_NOTFOUND : user(found);
}

enum nss_status _nss_cestest_getpwuid_r(uid_t uid, struct passwd *found, char *buffer, size_t size, int *error)
{
    return uid != ID ? NSS_STATUS_NOTFOUND : user(found);
}

static char *members[] = {NAME, NULL};

static enum nss_status group(struct group *found, int is_project)
{
    found->gr_name = is_project ? PROJECT : NAME;
    found->gr_passwd = "x";
    found->gr_gid = is_project ? PROJECT_ID : ID;
    found->gr_mem = is_project ? members : members + 1;
    return NSS_STATUS_SUCCESS;
}

enum nss_status _nss_cestest_getgrnam_r(const char *name, struct group *found, char *buffer, size_t size, int *error)
{
    if (strcmp(name, NAME) && strcmp(name, PROJECT))
        return NSS_STATUS_NOTFOUND;
    return group(found, !strcmp(name, PROJECT));
}

enum nss_status _nss_cestest_getgrgid_r(gid_t gid, struct group *found, char *buffer, size_t size, int *error)
{
    return gid != ID && gid != PROJECT_ID ? NSS_STATUS_NOTFOUND : group(found, gid == PROJECT_ID);
}

enum nss_status _nss_cestest_initgroups_dyn(const char *name, gid_t first, long *count, long *size, gid_t **groups, long most, int *error)
{
    if (strcmp(name, NAME))
        return NSS_STATUS_NOTFOUND;
    if (*count == *size) {
        gid_t *larger = realloc(*groups, (*size + 8) * sizeof **groups);
        if (!larger) {
            *error = ENOMEM;
            return NSS_STATUS_TRYAGAIN;
        }
        *groups = larger;
        *size += 8;
    }
    (*groups)[(*count)++] = PROJECT_ID;
    return NSS_STATUS_SUCCESS;
}
