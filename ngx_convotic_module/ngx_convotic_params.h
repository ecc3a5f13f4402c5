
/*
 * The check of the query string.
 */


#ifndef _NGX_CONVOTIC_PARAMS_H_INCLUDED_
#define _NGX_CONVOTIC_PARAMS_H_INCLUDED_


#include "ngx_convotic_conf.h"


/*
 * NGX_OK: ctx->platform, ctx->limit and ctx->query are set, the query in its
 * canonical form; NGX_DONE: ctx->answer is; NGX_ERROR: no memory.
 */
ngx_int_t ngx_convotic_params_start(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);


#endif /* _NGX_CONVOTIC_PARAMS_H_INCLUDED_ */
