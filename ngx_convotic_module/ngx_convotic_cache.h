
/*
 * The check of the cache, and the storing of what a fill has brought.
 */


#ifndef _NGX_CONVOTIC_CACHE_H_INCLUDED_
#define _NGX_CONVOTIC_CACHE_H_INCLUDED_


#include "ngx_convotic_conf.h"
#include "ngx_convotic_body.h"


/* at the end of the configuration; NGX_ERROR: no memory */
ngx_int_t ngx_convotic_cache_init(ngx_conf_t *cf,
    ngx_convotic_main_conf_t *mcf);

/*
 * NGX_DONE: ctx->answer is a copy, to be renewed behind it if
 * ctx->cache.refresh is set, or an error; NGX_AGAIN: Redis was asked, or
 * another request leads; NGX_OK: go to the upstream; NGX_ERROR.
 */
ngx_int_t ngx_convotic_cache_start(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
ngx_int_t ngx_convotic_cache_done(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);

/*
 * A body from the upstream; it is kept for valid ms from now on, and to be
 * used for stale ms more.  NULL: no memory, or it is too large to be sent.
 * previous, whose bytes are the same, lends its gzip form; it may be NULL.
 */
ngx_convotic_body_t *ngx_convotic_cache_body(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx, ngx_convotic_body_parts_t *parts,
    ngx_convotic_body_t *previous);

/* here and in Redis; without a known generation, nowhere */
void ngx_convotic_cache_store(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx,
    ngx_convotic_body_t *body);

/*
 * The fetch that this request leads has ended with the answer: whoever waits
 * is served.  shared: what came may be given to others.
 */
void ngx_convotic_cache_fetched(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx, ngx_convotic_answer_t *answer,
    ngx_uint_t shared);

/*
 * Whether the generation is still the one that the copy at hand was stored
 * for: NGX_OK; NGX_AGAIN, and ctx->resume will be called with
 * ctx->cache.confirmed set or not; NGX_DECLINED: that cannot be known.
 */
ngx_int_t ngx_convotic_cache_confirm(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);

/* the request ends */
void ngx_convotic_cache_leave(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx);


#endif /* _NGX_CONVOTIC_CACHE_H_INCLUDED_ */
