
/*
 * The check of the cache, and the storing of what a fill has brought.
 */


#ifndef _NGX_CONVOTIC_CACHE_H_INCLUDED_
#define _NGX_CONVOTIC_CACHE_H_INCLUDED_


#include "ngx_convotic_conf.h"
#include "ngx_convotic_resp.h"


/* beyond the body, what an envelope may have: its lines and kept headers */
#define NGX_CONVOTIC_CACHE_OVERHEAD  16384


/* NGX_AGAIN: Redis was asked; NGX_OK: go to the upstream; NGX_ERROR */
ngx_int_t ngx_convotic_cache_start(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);

/* NGX_DONE: ctx->answer is a fresh copy; NGX_OK: go to the upstream */
ngx_int_t ngx_convotic_cache_done(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);

/*
 * Writes the answer, fresh for so many ms and to be used for stale ms more.
 * Without a known generation nothing is written.
 */
void ngx_convotic_cache_store(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx,
    ngx_convotic_answer_t *answer, ngx_msec_t fresh, ngx_msec_t stale);

/*
 * Whether the generation is still the one that the copy at hand was stored
 * for: NGX_AGAIN, and ctx->resume will be called with ctx->cache.confirmed
 * set or not; NGX_DECLINED: that cannot be known.
 */
ngx_int_t ngx_convotic_cache_confirm(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);

/*
 * The name, as it is written, of a header that stays with a body; NULL: it
 * does not, or its value is none
 */
ngx_str_t *ngx_convotic_cache_kept(ngx_str_t *name, ngx_str_t *value);

/* the strong entity tag of a body, quoted, in the pool */
ngx_int_t ngx_convotic_cache_etag(ngx_http_request_t *r, ngx_str_t *body,
    ngx_str_t *etag);


#endif /* _NGX_CONVOTIC_CACHE_H_INCLUDED_ */
