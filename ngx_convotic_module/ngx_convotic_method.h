
/*
 * The checks of the method and of the request's body.
 */


#ifndef _NGX_CONVOTIC_METHOD_H_INCLUDED_
#define _NGX_CONVOTIC_METHOD_H_INCLUDED_


#include "ngx_convotic_conf.h"


/* NGX_OK; NGX_DONE: ctx->answer is set */
ngx_int_t ngx_convotic_method_start(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
ngx_int_t ngx_convotic_method_body_start(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);

/* whether the request has a body, or may have one */
ngx_uint_t ngx_convotic_method_has_body(ngx_http_request_t *r);


#endif /* _NGX_CONVOTIC_METHOD_H_INCLUDED_ */
