
/*
 * URLs of Redis servers: redis://[user[:password]@]host[:port][/db] and
 * unix:/path[?db=N].
 */


#ifndef _NGX_CONVOTIC_URL_H_INCLUDED_
#define _NGX_CONVOTIC_URL_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


typedef struct {
    ngx_str_t   address;     /* "host:port" or "unix:/path" */
    ngx_str_t   user;
    ngx_str_t   password;
    ngx_uint_t  db;
} ngx_convotic_url_t;


/* NULL, or a sentence's end that says what is wrong, without the password */
char *ngx_convotic_url_parse(ngx_pool_t *pool, ngx_str_t *text,
    ngx_convotic_url_t *url);


#endif /* _NGX_CONVOTIC_URL_H_INCLUDED_ */
