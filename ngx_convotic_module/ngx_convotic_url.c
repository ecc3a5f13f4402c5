
/*
 * Owns the reading of a Redis URL, at configuration time only.  The strings
 * of the result live in the pool or in the text that was given.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_convotic_url.h"


#define NGX_CONVOTIC_URL_DBS  65536


static char *ngx_convotic_url_parse_unix(ngx_str_t *text,
    ngx_convotic_url_t *url);
static char *ngx_convotic_url_parse_userinfo(ngx_pool_t *pool, u_char *p,
    u_char *last, ngx_convotic_url_t *url);
static char *ngx_convotic_url_parse_db(u_char *p, u_char *last,
    ngx_convotic_url_t *url);
static ngx_int_t ngx_convotic_url_decode(ngx_pool_t *pool, u_char *p,
    u_char *last, ngx_str_t *value);


char *
ngx_convotic_url_parse(ngx_pool_t *pool, ngx_str_t *text,
    ngx_convotic_url_t *url)
{
    char    *err;
    u_char  *p, *last, *at, *slash;

    ngx_memzero(url, sizeof(ngx_convotic_url_t));

    p = text->data;
    last = p + text->len;

    if (ngx_strncmp(p, "unix:", 5) == 0) {
        return ngx_convotic_url_parse_unix(text, url);
    }

    if (ngx_strncmp(p, "rediss:", 7) == 0) {
        return "has the scheme \"rediss\": TLS to Redis is not supported";
    }

    if (ngx_strncmp(p, "redis://", 8) != 0) {
        return "must begin with \"redis://\" or \"unix:/\"";
    }

    p += 8;

    slash = ngx_strlchr(p, last, '/');
    at = ngx_strlchr(p, slash ? slash : last, '@');

    if (at) {
        err = ngx_convotic_url_parse_userinfo(pool, p, at, url);
        if (err) {
            return err;
        }

        p = at + 1;
    }

    if (slash) {
        err = ngx_convotic_url_parse_db(slash + 1, last, url);
        if (err) {
            return err;
        }

        last = slash;
    }

    if (p == last || *p == ':') {
        return "has no host";
    }

    if (ngx_strlchr(p, last, '?') || ngx_strlchr(p, last, '#')
        || ngx_strlchr(p, last, '@'))
    {
        return "has an invalid host";
    }

    url->address.data = p;
    url->address.len = last - p;

    return NULL;
}


static char *
ngx_convotic_url_parse_unix(ngx_str_t *text, ngx_convotic_url_t *url)
{
    u_char  *p, *last;

    p = text->data;
    last = p + text->len;

    url->address.data = p;

    p = ngx_strlchr(p, last, '?');

    url->address.len = (p ? p : last) - text->data;

    if (url->address.len < 7 || url->address.data[5] != '/') {
        return "must have an absolute path after \"unix:\"";
    }

    if (p == NULL) {
        return NULL;
    }

    if (last - p < 5 || ngx_strncmp(p, "?db=", 4) != 0) {
        return "may have only \"?db=N\" after the path";
    }

    return ngx_convotic_url_parse_db(p + 4, last, url);
}


static char *
ngx_convotic_url_parse_userinfo(ngx_pool_t *pool, u_char *p, u_char *last,
    ngx_convotic_url_t *url)
{
    u_char  *colon;

    colon = ngx_strlchr(p, last, ':');

    if (ngx_convotic_url_decode(pool, p, colon ? colon : last, &url->user)
        != NGX_OK)
    {
        return "has malformed percent-encoding in the user";
    }

    if (colon == NULL) {
        return NULL;
    }

    if (ngx_convotic_url_decode(pool, colon + 1, last, &url->password)
        != NGX_OK)
    {
        return "has malformed percent-encoding in the password";
    }

    return NULL;
}


static char *
ngx_convotic_url_parse_db(u_char *p, u_char *last, ngx_convotic_url_t *url)
{
    ngx_int_t  n;

    if (p == last) {
        return NULL;
    }

    n = ngx_atoi(p, last - p);

    if (n == NGX_ERROR || n >= NGX_CONVOTIC_URL_DBS) {
        return "has a database that is not a number from 0 to 65535";
    }

    url->db = n;

    return NULL;
}


static ngx_int_t
ngx_convotic_url_decode(ngx_pool_t *pool, u_char *p, u_char *last,
    ngx_str_t *value)
{
    u_char     *d;
    ngx_int_t   n;

    d = ngx_pnalloc(pool, last - p + 1);
    if (d == NULL) {
        return NGX_ERROR;
    }

    value->data = d;

    while (p < last) {

        if (*p != '%') {
            *d++ = *p++;
            continue;
        }

        if (last - p < 3) {
            return NGX_ERROR;
        }

        n = ngx_hextoi(p + 1, 2);
        if (n == NGX_ERROR) {
            return NGX_ERROR;
        }

        *d++ = (u_char) n;
        p += 3;
    }

    value->len = d - value->data;

    return NGX_OK;
}
