
/*
 * Owns the reading of server URLs and of password files.  No part of a URL is
 * in a message: a mistyped one may have its password anywhere.  options.c
 * parses both servers once a run; main.c frees them at its end; conn.c
 * connects.
 */


#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include <openssl/crypto.h>

#include "mem.h"
#include "output.h"
#include "server.h"
#include "text.h"


#define SERVER_PORT      6379
#define SERVER_PORT_MAX  65535
#define SERVER_DB_MAX    65535


void
server_free(server_t *s)
{
    free(s->host);
    free(s->path);
    free(s->user);
    free(s->shown);

    if (s->password) {
        OPENSSL_cleanse(s->password, strlen(s->password));
        free(s->password);
    }
}


/* NULL: malformed, or a NUL in it */

static char *
server_decode(const char *s, size_t len)
{
    char    *text, *p, hex[3];
    size_t   i;

    text = mem_realloc(NULL, len + 1);
    p = text;

    for (i = 0; i < len; i++) {

        if (s[i] != '%') {
            *p++ = s[i];
            continue;
        }

        if (len - i < 3 || !isxdigit((unsigned char) s[i + 1])
            || !isxdigit((unsigned char) s[i + 2]))
        {
            break;
        }

        memcpy(hex, s + i + 1, 2);
        hex[2] = '\0';
        *p = (char) strtol(hex, NULL, 16);
        i += 2;

        if (*p++ == '\0') {
            break;
        }
    }

    if (i < len) {
        free(text);
        return NULL;
    }

    *p = '\0';

    return text;
}


static const char *
server_parse_db(server_t *s, const char *db)
{
    if (text_number(db, strlen(db), SERVER_DB_MAX) == -1) {
        return "the database is not a number from 0 to 65535";
    }

    snprintf(s->db, sizeof(s->db), "%s", db);

    return NULL;
}


/* "unix:" is behind p */

static const char *
server_parse_unix(server_t *s, const char *p)
{
    const char  *query, *error;

    query = strchr(p, '?');
    query = query ? query : p + strlen(p);

    if (*p != '/' || query - p < 2) {
        return "the path of the socket is not absolute";
    }

    s->path = mem_copy(p, (size_t) (query - p));

    if (*query != '\0') {
        if (strncmp(query, "?db=", 4) != 0) {
            return "only ?db=N may follow the path";
        }

        error = server_parse_db(s, query + 4);
        if (error) {
            return error;
        }
    }

    s->shown = text_format(strcmp(s->db, "0") == 0 ? "unix:%s"
                                                   : "unix:%s?db=%s",
                           s->path, s->db);

    return NULL;
}


/* user[:password], up to the "@" */

static const char *
server_parse_user(server_t *s, const char *p, const char *at)
{
    const char  *colon;

    colon = memchr(p, ':', (size_t) (at - p));

    s->user = server_decode(p, (size_t) ((colon ? colon : at) - p));
    if (s->user == NULL) {
        return "the user has malformed percent-encoding";
    }

    if (colon) {
        s->password = server_decode(colon + 1, (size_t) (at - colon - 1));
        if (s->password == NULL) {
            return "the password has malformed percent-encoding";
        }
    }

    return NULL;
}


/* host[:port], up to end; an IPv6 address is in brackets */

static const char *
server_parse_host(server_t *s, const char *p, const char *end)
{
    long long    port;
    const char  *colon;

    if (*p == '[') {
        colon = memchr(p, ']', (size_t) (end - p));
        if (colon == NULL) {
            return "the bracket of an IPv6 address is not closed";
        }

        s->host = mem_copy(p + 1, (size_t) (colon - p - 1));
        colon++;

        if (colon < end && *colon != ':') {
            return "only :port may follow an IPv6 address";
        }

    } else {
        colon = memchr(p, ':', (size_t) (end - p));
        colon = colon ? colon : end;
        s->host = mem_copy(p, (size_t) (colon - p));
    }

    if (s->host[0] == '\0') {
        return "the host is missing";
    }

    if (strpbrk(s->host, "?#@%") != NULL) {
        return "the host is malformed";
    }

    s->port = SERVER_PORT;

    if (colon < end) {
        port = text_number(colon + 1, (size_t) (end - colon - 1),
                           SERVER_PORT_MAX);
        if (port < 1) {
            return "the port is not a number from 1 to 65535";
        }

        s->port = (int) port;
    }

    return NULL;
}


/* "redis://" is behind p */

static const char *
server_parse_tcp(server_t *s, const char *p)
{
    char        *user;
    const char  *at, *slash, *error;

    slash = p + strcspn(p, "/");
    at = memchr(p, '@', (size_t) (slash - p));

    if (at) {
        error = server_parse_user(s, p, at);
        if (error) {
            return error;
        }

        p = at + 1;
    }

    error = server_parse_host(s, p, slash);
    if (error) {
        return error;
    }

    if (slash[0] != '\0' && slash[1] != '\0') {
        error = server_parse_db(s, slash + 1);
        if (error) {
            return error;
        }
    }

    user = s->user ? text_escape(s->user, strlen(s->user)) : NULL;

    s->shown = text_format(strchr(s->host, ':') ? "redis://%s%s[%s]:%d/%s"
                                                : "redis://%s%s%s:%d/%s",
                           user ? user : "", user && *user ? "@" : "",
                           s->host, s->port, s->db);
    free(user);

    return NULL;
}


static rc_t
server_parse_url(server_t *s, const char *source, const char *url)
{
    const char  *p, *error;

    error = NULL;

    for (p = url; *p != '\0'; p++) {
        if ((unsigned char) *p <= 0x20 || *p == 0x7f) {
            error = "it has a blank or a control character";
        }
    }

    if (error) {
        /* void */

    } else if (strncmp(url, "redis://", 8) == 0) {
        error = server_parse_tcp(s, url + 8);

    } else if (strncmp(url, "unix:", 5) == 0) {
        error = server_parse_unix(s, url + 5);

    } else if (strncmp(url, "rediss://", 9) == 0) {
        error = "TLS is not supported";

    } else {
        error = "it begins neither with redis:// nor with unix:/";
    }

    if (error == NULL) {
        return RC_OK;
    }

    output_say("%s: %s; redis://[user[:password]@]host[:port][/db] and "
               "unix:/path[?db=N] are allowed", source, error);

    return RC_USAGE;
}


/* the first line of the file */

static rc_t
server_password_file(server_t *s, const char *option, const char *file)
{
    FILE     *f;
    char     *line;
    rc_t      rc;
    size_t    size;
    ssize_t   len;

    if (s->password) {
        output_say("%s: the URL has a password already; give one of the two",
                   option);
        return RC_USAGE;
    }

    f = fopen(file, "r");
    if (f == NULL) {
        output_say("%s: cannot open %s: %s", option, file, strerror(errno));
        return RC_FAILED;
    }

    line = NULL;
    size = 0;
    rc = RC_OK;

    len = getline(&line, &size, f);

    if (len > 0) {
        len = (ssize_t) strcspn(line, "\r\n");
        s->password = mem_copy(line, (size_t) len);
        OPENSSL_cleanse(line, size);
    }

    if (len <= 0) {
        output_say("%s: no password in the first line of %s", option, file);
        rc = RC_FAILED;
    }

    free(line);
    fclose(f);

    return rc;
}


rc_t
server_parse(server_t *s, const char *source, const char *url,
    const char *option, const char *file)
{
    rc_t  rc;

    memset(s, 0, sizeof(server_t));
    s->db[0] = '0';

    rc = server_parse_url(s, source, url);

    if (rc == RC_OK && file) {
        rc = server_password_file(s, option, file);
    }

    if (rc != RC_OK) {
        return rc;
    }

    if (s->user && *s->user && (s->password == NULL || *s->password == '\0')) {
        output_say("%s: the URL has a user and no password; give it there or "
                   "with %s", source, option);
        return RC_USAGE;
    }

    return RC_OK;
}
