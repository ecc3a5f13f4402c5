
/*
 * The check of the API key.
 */


#ifndef _NGX_CONVOTIC_AUTH_H_INCLUDED_
#define _NGX_CONVOTIC_AUTH_H_INCLUDED_


#include "ngx_convotic_conf.h"
#include "ngx_convotic_resp.h"


/* NGX_AGAIN: Redis was asked; NGX_DONE: ctx->answer is set; NGX_ERROR */
ngx_int_t ngx_convotic_auth_start(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);

/* NGX_OK: ctx->key_id and ctx->workspace are set; NGX_DONE: ctx->answer is */
ngx_int_t ngx_convotic_auth_done(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);

/* the request ends */
void ngx_convotic_auth_leave(ngx_convotic_ctx_t *ctx);


#endif /* _NGX_CONVOTIC_AUTH_H_INCLUDED_ */
