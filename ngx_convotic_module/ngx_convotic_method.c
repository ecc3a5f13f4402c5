
/*
 * Owns the question of what kind of request this is.  A body is refused and
 * never forwarded: an upstream that does not read it would take it for the
 * next request on the connection, which is another tenant's.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_error.h"
#include "ngx_convotic_method.h"


/* as much of a method as an error message repeats */
#define NGX_CONVOTIC_METHOD_MAX  32


ngx_int_t
ngx_convotic_method_start(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    size_t                  len;
    ngx_convotic_header_t  *header;

    if (r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD)) {
        return NGX_OK;
    }

    /* nginx lets nothing but A-Z, "_" and "-" into a method */

    len = ngx_min(r->method_name.len, NGX_CONVOTIC_METHOD_MAX);

    ngx_convotic_error_format(r->pool, &ctx->answer, NGX_HTTP_NOT_ALLOWED,
                              "Method %*s is not allowed", len,
                              r->method_name.data);

    ctx->answer.headers = ngx_array_create(r->pool, 1,
                                           sizeof(ngx_convotic_header_t));
    if (ctx->answer.headers == NULL) {
        return NGX_ERROR;
    }

    header = ngx_array_push(ctx->answer.headers);
    if (header == NULL) {
        return NGX_ERROR;
    }

    ngx_str_set(&header->name, "Allow");
    ngx_str_set(&header->value, "GET, HEAD");

    return NGX_DONE;
}


ngx_int_t
ngx_convotic_method_body_start(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx)
{
    if (!ngx_convotic_method_has_body(r)) {
        return NGX_OK;
    }

    ngx_convotic_error_format(r->pool, &ctx->answer, NGX_HTTP_BAD_REQUEST,
                              "A request body is not allowed");
    return NGX_DONE;
}


ngx_uint_t
ngx_convotic_method_has_body(ngx_http_request_t *r)
{
    if (r->headers_in.content_length_n > 0 || r->headers_in.chunked) {
        return 1;
    }

#if (NGX_HTTP_V2)

    /* DATA frames may follow without a Content-Length */

    if (r->stream && r->headers_in.content_length_n < 0
        && !r->stream->in_closed)
    {
        return 1;
    }

#endif

    return 0;
}
