
/*
 * Owns the digest context of a cycle.  It is made when the configuration is
 * read, and each worker uses its own copy of that memory; a digest is done
 * within one call, so that nothing is shared between requests.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_digest.h"

#include <openssl/evp.h>


struct ngx_convotic_digest_s {
    EVP_MD_CTX    *ctx;
    const EVP_MD  *md;
};


static void ngx_convotic_digest_cleanup(void *data);


ngx_convotic_digest_t *
ngx_convotic_digest_create(ngx_pool_t *pool)
{
    ngx_pool_cleanup_t     *cln;
    ngx_convotic_digest_t  *digest;

    cln = ngx_pool_cleanup_add(pool, sizeof(ngx_convotic_digest_t));
    if (cln == NULL) {
        return NULL;
    }

    digest = cln->data;

    digest->ctx = EVP_MD_CTX_new();
    if (digest->ctx == NULL) {
        return NULL;
    }

    cln->handler = ngx_convotic_digest_cleanup;

    digest->md = EVP_sha256();

    if (EVP_DigestInit_ex(digest->ctx, digest->md, NULL) != 1) {
        return NULL;
    }

    return digest;
}


ngx_int_t
ngx_convotic_digest(ngx_convotic_digest_t *digest, ngx_str_t *parts,
    ngx_uint_t n, u_char *value)
{
    ngx_uint_t  i;

    /* no type: the context keeps the one it has, and its state is reused */

    if (EVP_DigestInit_ex(digest->ctx, NULL, NULL) != 1) {
        return NGX_ERROR;
    }

    for (i = 0; i < n; i++) {
        if (EVP_DigestUpdate(digest->ctx, parts[i].data, parts[i].len) != 1) {
            return NGX_ERROR;
        }
    }

    return (EVP_DigestFinal_ex(digest->ctx, value, NULL) == 1) ? NGX_OK
                                                               : NGX_ERROR;
}


ngx_int_t
ngx_convotic_digest_hex(ngx_convotic_digest_t *digest, ngx_str_t *parts,
    ngx_uint_t n, u_char *hex)
{
    u_char  value[NGX_CONVOTIC_DIGEST_LEN];

    if (ngx_convotic_digest(digest, parts, n, value) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_hex_dump(hex, value, NGX_CONVOTIC_DIGEST_LEN);

    return NGX_OK;
}


static void
ngx_convotic_digest_cleanup(void *data)
{
    ngx_convotic_digest_t  *digest = data;

    EVP_MD_CTX_free(digest->ctx);
}


uint32_t
ngx_convotic_digest_hash(const u_char *value)
{
    uint32_t  hash;

    ngx_memcpy(&hash, value, sizeof(uint32_t));

    return hash;
}
