
/*
 * Where a Redis server is and who asks it: redis:// and unix: URLs.
 */


#ifndef _CTL_SERVER_H_INCLUDED_
#define _CTL_SERVER_H_INCLUDED_


#include "rc.h"


typedef struct {
    char    *host;                  /* NULL: a Unix socket */
    char    *path;
    char    *user;                  /* NULL or empty: the default user */
    char    *password;              /* NULL or empty: none */
    char    *shown;                 /* the URL, without its password */
    int      port;
    char     db[12];
} server_t;


/*
 * source is where the URL is from, for messages: an option or a variable.
 * file, if not NULL, has the password in its first line; option is how it is
 * named.  Anything but RC_OK is said; server_free() is needed all the same.
 */
rc_t server_parse(server_t *s, const char *source, const char *url,
    const char *option, const char *file);

/* cleanses the password; all zeros are allowed */
void server_free(server_t *s);


#endif /* _CTL_SERVER_H_INCLUDED_ */
