
/*
 * The check of the rate, and the headers that tell of it.
 */


#ifndef _NGX_CONVOTIC_LIMIT_H_INCLUDED_
#define _NGX_CONVOTIC_LIMIT_H_INCLUDED_


#include "ngx_convotic_conf.h"
#include "ngx_convotic_zone.h"


/* NULL: no memory */
ngx_convotic_limits_t *ngx_convotic_limit_create(ngx_conf_t *cf,
    ngx_convotic_main_conf_t *mcf);

/* in a worker */
void ngx_convotic_limit_start_worker(ngx_convotic_limits_t *limits,
    ngx_cycle_t *cycle);

/*
 * NGX_OK: admitted; NGX_AGAIN: a lease was asked for, and ctx->resume will be
 * called; NGX_DONE: ctx->answer is set; NGX_ERROR.
 */
ngx_int_t ngx_convotic_limit_start(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
ngx_int_t ngx_convotic_limit_done(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);

/* of every response, once a rate applies to the request; else none */
ngx_int_t ngx_convotic_limit_headers(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);


#endif /* _NGX_CONVOTIC_LIMIT_H_INCLUDED_ */
