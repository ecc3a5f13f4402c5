
/*
 * SHA-256, with a context that is made once: initialising one anew costs
 * several times the hashing of a short key.
 */


#ifndef _NGX_CONVOTIC_DIGEST_H_INCLUDED_
#define _NGX_CONVOTIC_DIGEST_H_INCLUDED_


#include "ngx_convotic_conf.h"


/* lives as long as the pool; NULL: no memory or no SHA-256 in the library */
ngx_convotic_digest_t *ngx_convotic_digest_create(ngx_pool_t *pool);

/*
 * NGX_CONVOTIC_DIGEST_LEN bytes at value, of the parts one after the other;
 * NGX_ERROR if the library fails.
 */
ngx_int_t ngx_convotic_digest(ngx_convotic_digest_t *digest,
    ngx_str_t *parts, ngx_uint_t n, u_char *value);

/*
 * The same as NGX_CONVOTIC_HEX_LEN lower-case hexadecimal characters at
 * hex.
 */
ngx_int_t ngx_convotic_digest_hex(ngx_convotic_digest_t *digest,
    ngx_str_t *parts, ngx_uint_t n, u_char *hex);

/* of a digest, for a tree of things that are named by one */
uint32_t ngx_convotic_digest_hash(const u_char *value);


#endif /* _NGX_CONVOTIC_DIGEST_H_INCLUDED_ */
