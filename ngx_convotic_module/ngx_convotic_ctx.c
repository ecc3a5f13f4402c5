
/*
 * Owns where contexts live: in the request's pool, as the data of a cleanup,
 * so that they can be found after an internal redirect, a named location or
 * ngx_http_filter_finalize_request(), which zero the array of contexts.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_ctx.h"


static void ngx_convotic_ctx_cleanup(void *data);


ngx_convotic_ctx_t *
ngx_convotic_ctx_create(ngx_http_request_t *r)
{
    ngx_pool_cleanup_t  *cln;
    ngx_convotic_ctx_t  *ctx;

    cln = ngx_pool_cleanup_add(r->pool, sizeof(ngx_convotic_ctx_t));
    if (cln == NULL) {
        return NULL;
    }

    ctx = cln->data;
    ngx_memzero(ctx, offsetof(ngx_convotic_ctx_t, key_digest));

    cln->handler = ngx_convotic_ctx_cleanup;

    ctx->request = r;
    ngx_http_set_ctx(r, ctx, ngx_convotic_module);

    return ctx;
}


ngx_convotic_ctx_t *
ngx_convotic_ctx_get(ngx_http_request_t *r)
{
    ngx_pool_cleanup_t  *cln;
    ngx_convotic_ctx_t  *ctx;

    r = r->main;

    ctx = ngx_http_get_module_ctx(r, ngx_convotic_module);

    if (ctx || !(r->internal || r->filter_finalize)) {
        return ctx;
    }

    /* the latest is the first */

    for (cln = r->pool->cleanup; cln; cln = cln->next) {

        if (cln->handler == ngx_convotic_ctx_cleanup) {
            return cln->data;
        }
    }

    return NULL;
}


/* a mark to be found by; there is nothing to free */

static void
ngx_convotic_ctx_cleanup(void *data)
{
}
