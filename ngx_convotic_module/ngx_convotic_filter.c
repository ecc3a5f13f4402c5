
/*
 * Owns the places in nginx's filter chains.  They see every response of the
 * server, also those that nginx gives before it has a location, a context or
 * even a URI: what is looked at here is the status and the configuration
 * that nginx has fallen back to.
 *
 * A body is replaced by one of ours, at once and whatever it is.  The one
 * exception is a 4xx of an upstream that may be in the documented shape
 * already: its header is held back until its body has been read.
 *
 * The body is a constant then, so that an error can be told of when there is
 * no memory, too.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_json.h"
#include "ngx_convotic_headers.h"
#include "ngx_convotic_zone.h"
#include "ngx_convotic_error.h"
#include "ngx_convotic_limit.h"
#include "ngx_convotic_ctx.h"
#include "ngx_convotic_fill.h"
#include "ngx_convotic_filter.h"


/* of an upstream's error that is read for its message */
#define NGX_CONVOTIC_FILTER_HELD_MAX  16384


static ngx_int_t ngx_convotic_filter_header(ngx_http_request_t *r);
static ngx_int_t ngx_convotic_filter_body(ngx_http_request_t *r,
    ngx_chain_t *in);
static ngx_uint_t ngx_convotic_filter_applies(ngx_http_request_t *r);
static ngx_int_t ngx_convotic_filter_send(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx, ngx_chain_t *in);
static ngx_uint_t ngx_convotic_filter_may_hold(ngx_http_request_t *r);
static ngx_int_t ngx_convotic_filter_hold(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx, ngx_chain_t *in);
static ngx_int_t ngx_convotic_filter_replace(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_filter_bare(ngx_http_request_t *r);
static void ngx_convotic_filter_describe(ngx_http_request_t *r,
    ngx_convotic_answer_t *answer, off_t len);
static void ngx_convotic_filter_clean(ngx_http_request_t *r);


static ngx_http_output_header_filter_pt  ngx_convotic_next_header_filter;
static ngx_http_output_body_filter_pt    ngx_convotic_next_body_filter;


void
ngx_convotic_filter_init(void)
{
    ngx_convotic_next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = ngx_convotic_filter_header;

    ngx_convotic_next_body_filter = ngx_http_top_body_filter;
    ngx_http_top_body_filter = ngx_convotic_filter_body;
}


static ngx_int_t
ngx_convotic_filter_header(ngx_http_request_t *r)
{
    ngx_convotic_ctx_t   *ctx;
    ngx_convotic_fill_t  *fill;

    if (r != r->main) {
        fill = ngx_convotic_fill_get(r);

        return fill ? ngx_convotic_fill_header(fill, r)
                    : ngx_convotic_next_header_filter(r);
    }

    if (r->headers_out.status < NGX_HTTP_BAD_REQUEST
        || !ngx_convotic_filter_applies(r))
    {
        return ngx_convotic_next_header_filter(r);
    }

    /* that of the gate is still what the variables are to tell of */

    ctx = ngx_convotic_ctx_get(r);

    if (ctx) {
        ngx_http_set_ctx(r, ctx, ngx_convotic_module);

    } else {
        ctx = ngx_convotic_ctx_create(r);
        if (ctx == NULL) {
            return ngx_convotic_filter_bare(r);
        }
    }

    ctx->unsure = ngx_convotic_filter_may_hold(r);

    if (ctx->unsure && r->method != NGX_HTTP_HEAD) {
        ctx->holding = 1;
        r->filter_need_in_memory = 1;
        return NGX_OK;
    }

    return ngx_convotic_filter_replace(r, ctx);
}


static ngx_int_t
ngx_convotic_filter_body(ngx_http_request_t *r, ngx_chain_t *in)
{
    ngx_int_t             rc;
    ngx_convotic_ctx_t   *ctx;
    ngx_convotic_fill_t  *fill;

    if (r != r->main) {
        fill = ngx_convotic_fill_get(r);

        return fill ? ngx_convotic_fill_body(fill, r, in)
                    : ngx_convotic_next_body_filter(r, in);
    }

    ctx = ngx_http_get_module_ctx(r, ngx_convotic_module);

    if (ctx == NULL || in == NULL
        || (ctx->replacement.len == 0 && !ctx->holding))
    {
        return ngx_convotic_next_body_filter(r, in);
    }

    if (ctx->holding) {
        rc = ngx_convotic_filter_hold(r, ctx, in);

        if (rc == NGX_AGAIN) {
            return NGX_OK;
        }

        ctx->holding = 0;

        rc = ngx_convotic_filter_replace(r, ctx);

        if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
            return rc;
        }
    }

    return ngx_convotic_filter_send(r, ctx, in);
}


/* our body once; what is still to come of the other goes nowhere */

static ngx_int_t
ngx_convotic_filter_send(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx,
    ngx_chain_t *in)
{
    ngx_buf_t    *b;
    ngx_chain_t  *cl, out;

    for (cl = in; cl; cl = cl->next) {
        cl->buf->pos = cl->buf->last;
        cl->buf->file_pos = cl->buf->file_last;
    }

    if (ctx->replaced) {
        return ngx_convotic_next_body_filter(r, NULL);
    }

    ctx->replaced = 1;

    b = &ctx->out;
    ngx_memzero(b, sizeof(ngx_buf_t));

    b->pos = ctx->replacement.data;
    b->last = ctx->replacement.data + ctx->replacement.len;
    b->memory = 1;
    b->last_buf = 1;
    b->last_in_chain = 1;

    out.buf = b;
    out.next = NULL;

    return ngx_convotic_next_body_filter(r, &out);
}


/* only what is short, and plain JSON */

static ngx_uint_t
ngx_convotic_filter_may_hold(ngx_http_request_t *r)
{
    ngx_str_t  *type;

    static ngx_str_t  json = ngx_string("application/json");

    type = &r->headers_out.content_type;

    return r->headers_out.status < NGX_HTTP_INTERNAL_SERVER_ERROR
           && r->upstream
           && r->headers_out.content_encoding == NULL
           && r->headers_out.content_length_n <= NGX_CONVOTIC_FILTER_HELD_MAX
           && type->len >= json.len
           && ngx_strncasecmp(type->data, json.data, json.len) == 0;
}


/* NGX_AGAIN: more is to come */

static ngx_int_t
ngx_convotic_filter_hold(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx,
    ngx_chain_t *in)
{
    size_t        len;
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    if (ctx->held.data == NULL) {
        ctx->held.data = ngx_pnalloc(r->pool, NGX_CONVOTIC_FILTER_HELD_MAX);
        if (ctx->held.data == NULL) {
            return NGX_OK;
        }
    }

    for (cl = in; cl; cl = cl->next) {
        b = cl->buf;

        if (ngx_buf_in_memory(b)) {
            len = b->last - b->pos;

            if (len > NGX_CONVOTIC_FILTER_HELD_MAX - ctx->held.len) {
                ctx->held.len = 0;
                return NGX_OK;
            }

            ctx->held.len = ngx_cpymem(ctx->held.data + ctx->held.len,
                                       b->pos, len)
                            - ctx->held.data;
        }

        if (b->last_buf || b->last_in_chain) {
            return NGX_OK;
        }

        if (ngx_buf_special(b) && b->flush && r->upstream->cleanup == NULL) {

            /* the upstream has broken off, and is being finalized */

            ctx->held.len = 0;
            return NGX_OK;
        }

        b->pos = b->last;
        b->file_pos = b->file_last;
    }

    return NGX_AGAIN;
}


static ngx_uint_t
ngx_convotic_filter_applies(ngx_http_request_t *r)
{
    ngx_convotic_ctx_t       *ctx;
    ngx_convotic_loc_conf_t  *conf;

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);

    if (conf->errors == 0
        || (conf->errors == NGX_CONF_UNSET && !conf->enable))
    {
        return 0;
    }

    /* what the gateway has answered itself is as it should be */

    ctx = ngx_http_get_module_ctx(r, ngx_convotic_module);

    return ctx == NULL || ctx->sent < NGX_HTTP_BAD_REQUEST
           || ctx->sent != r->headers_out.status;
}


static ngx_int_t
ngx_convotic_filter_replace(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_uint_t             status;
    ngx_convotic_answer_t  answer;

    status = r->headers_out.status;

    ngx_memzero(&answer, sizeof(ngx_convotic_answer_t));
    ngx_convotic_error_set(&answer, status);

    if (ngx_convotic_error_adopt(r->pool, &answer, &ctx->held) != NGX_OK
        || ngx_convotic_json_error(r->pool, answer.code, &answer.message,
                                   &ctx->replacement)
           != NGX_OK)
    {
        ngx_convotic_error_set(&answer, status);
        ctx->replacement = *ngx_convotic_error_body(status);
    }

    ctx->replaced = 0;
    ctx->answer.code = answer.code;

    /* a GET's body may be another one, which a HEAD does not show */

    ngx_convotic_filter_describe(r, &answer,
                                 (ctx->unsure && r->method == NGX_HTTP_HEAD)
                                 ? -1 : (off_t) ctx->replacement.len);

    /*
     * ngx_http_filter_finalize_request() has dropped those that were told;
     * for want of memory an error is told of without them.
     */

    if (!ctx->rate.told || r->filter_finalize) {
        (void) ngx_convotic_limit_headers(r, ctx);
    }

    return ngx_convotic_next_header_filter(r);
}


/*
 * There is no context to remember the replacement by: it follows its header
 * at once, and who sends the other body is told that none is wanted.
 */

static ngx_int_t
ngx_convotic_filter_bare(ngx_http_request_t *r)
{
    ngx_int_t               rc;
    ngx_buf_t              *b;
    ngx_chain_t             out;
    const ngx_str_t        *body;
    ngx_convotic_answer_t   answer;

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_ERROR;
    }

    body = ngx_convotic_error_body(r->headers_out.status);

    b->pos = body->data;
    b->last = body->data + body->len;
    b->memory = 1;
    b->last_buf = 1;
    b->last_in_chain = 1;

    out.buf = b;
    out.next = NULL;

    ngx_convotic_error_set(&answer, r->headers_out.status);
    ngx_convotic_filter_describe(r, &answer, body->len);

    rc = ngx_convotic_next_header_filter(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    r->header_only = 1;

    return ngx_convotic_next_body_filter(r, &out);
}


/* len: of the body that is to come, or -1 */

static void
ngx_convotic_filter_describe(ngx_http_request_t *r,
    ngx_convotic_answer_t *answer, off_t len)
{
    ngx_uint_t                 status;
    ngx_convotic_loc_conf_t   *conf;
    ngx_convotic_main_conf_t  *mcf;

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);
    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    ngx_convotic_zone_count(mcf->zone,
                            NGX_CONVOTIC_COUNT_SHAPED_UNAUTHORIZED
                            + ngx_convotic_error_index(answer->code));

    status = ngx_convotic_error_status(conf, answer->status, answer->code);

    /* err_status is what $status prints first */

    r->headers_out.status = status;
    if (r->err_status) {
        r->err_status = status;
    }

    ngx_convotic_filter_clean(r);

    r->headers_out.content_length_n = len;

    ngx_str_set(&r->headers_out.content_type, "application/json");
    r->headers_out.content_type_len = r->headers_out.content_type.len;
    r->headers_out.content_type_lowcase = NULL;
}


/* what described the body that was, and a reason phrase of an upstream's */

static void
ngx_convotic_filter_clean(ngx_http_request_t *r)
{
    ngx_table_elt_t         *header;
    ngx_convotic_headers_t   it;

    static ngx_str_t  refresh = ngx_string("Refresh");

    r->headers_out.status_line.len = 0;
    r->headers_out.charset.len = 0;
    r->headers_out.override_charset = NULL;

    ngx_http_clear_content_length(r);
    ngx_http_clear_accept_ranges(r);
    ngx_http_clear_last_modified(r);
    ngx_http_clear_etag(r);

    if (r->headers_out.content_encoding) {
        r->headers_out.content_encoding->hash = 0;
        r->headers_out.content_encoding = NULL;
    }

    /* nginx knows of it only if "proxy_redirect" has rewritten it */

    r->headers_out.refresh = NULL;

    ngx_convotic_headers_start(&it, &r->headers_out.headers);

    while ((header = ngx_convotic_headers_next(&it)) != NULL) {

        if (ngx_convotic_headers_is(header, &refresh)) {
            header->hash = 0;
        }
    }

    /* the range filter's body part comes before ours */

    r->allow_ranges = 0;
    r->disable_not_modified = 1;

    /* nor is an exact Content-Length to be lost */

#if (NGX_HTTP_GZIP)
    r->gzip_tested = 1;
    r->gzip_ok = 0;
#endif
}
