
/*
 * The gzip form of a body: who takes it, and how it is made.  The only file
 * that includes zlib.
 */


#ifndef _NGX_CONVOTIC_GZIP_H_INCLUDED_
#define _NGX_CONVOTIC_GZIP_H_INCLUDED_


#include "ngx_convotic_conf.h"


/*
 * Whether the client takes gzip and has not said that it likes the plain
 * form better (RFC 9110, 12.5.3).  Without Accept-Encoding: no.
 */
ngx_uint_t ngx_convotic_gzip_accepted(ngx_http_request_t *r);

/*
 * Lives as long as the pool; NULL: no memory.  zlib's own 256 KB are not
 * allocated before the first use, so not in the master.
 */
ngx_convotic_gzip_t *ngx_convotic_gzip_create(ngx_pool_t *pool);

/*
 * One gzip member (RFC 1952) of the bytes in, at out, which has room for *len
 * bytes: NGX_OK, *len is then its length, and the same bytes always give the
 * same member.  NGX_DECLINED: it does not fit.  NGX_ERROR: no memory.  Level
 * is zlib's, 1 to 9; a change of it costs the state anew.
 */
ngx_int_t ngx_convotic_gzip_deflate(ngx_convotic_gzip_t *gzip,
    ngx_int_t level, ngx_str_t *in, u_char *out, size_t *len);


#endif /* _NGX_CONVOTIC_GZIP_H_INCLUDED_ */
