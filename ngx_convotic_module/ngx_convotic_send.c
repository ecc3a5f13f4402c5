
/*
 * Owns the response: a hit, what a fill has brought, a stale copy and an
 * error differ in ctx->answer and nowhere else.  It enters the filters at
 * their top, so that conditional requests, ranges, HEAD and gzip are nginx's
 * own.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_json.h"
#include "ngx_convotic_gzip.h"
#include "ngx_convotic_digits.h"
#include "ngx_convotic_headers.h"
#include "ngx_convotic_zone.h"
#include "ngx_convotic_body.h"
#include "ngx_convotic_error.h"
#include "ngx_convotic_method.h"
#include "ngx_convotic_limit.h"
#include "ngx_convotic_ctx.h"
#include "ngx_convotic_send.h"


/* "convotic; fwd=uri-miss; fwd-status=200; stored; ttl=30; detail=..." */
#define NGX_CONVOTIC_SEND_STATUS_LEN  256


/* of two forms of a body, the one that this client is sent */

typedef struct {
    ngx_str_t     body;
    ngx_str_t    *etag;
    ngx_uint_t    encoded;
} ngx_convotic_send_form_t;


static void ngx_convotic_send_clear(ngx_http_request_t *r);
static void ngx_convotic_send_select(ngx_http_request_t *r,
    ngx_convotic_answer_t *answer, ngx_convotic_send_form_t *form);
static ngx_int_t ngx_convotic_send_answer(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx, ngx_convotic_send_form_t *form);
static ngx_int_t ngx_convotic_send_error(ngx_http_request_t *r,
    ngx_convotic_answer_t *answer, ngx_str_t *body);
static ngx_int_t ngx_convotic_send_headers(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_send_success_headers(ngx_http_request_t *r,
    ngx_convotic_answer_t *answer, ngx_convotic_send_form_t *form);
static ngx_int_t ngx_convotic_send_cache_status(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static void ngx_convotic_send_count(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_uint_t ngx_convotic_send_precondition(ngx_http_request_t *r,
    ngx_str_t *etag);
static ngx_int_t ngx_convotic_send_add_number(ngx_http_request_t *r,
    ngx_str_t *name, time_t n);


void
ngx_convotic_send_handler(ngx_http_request_t *r)
{
    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, r->connection->log, 0,
                   "convotic send handler");

    r->write_event_handler = ngx_http_request_empty_handler;

    ngx_http_finalize_request(r, ngx_convotic_send(r));
}


ngx_int_t
ngx_convotic_send(ngx_http_request_t *r)
{
    ngx_int_t                  rc;
    ngx_convotic_ctx_t        *ctx;
    ngx_convotic_answer_t     *answer;
    ngx_convotic_send_form_t   form;

    ctx = ngx_http_get_module_ctx(r, ngx_convotic_module);
    answer = &ctx->answer;

    /* nobody is asked for a body that nobody reads */

    r->expect_tested = 1;

    if (ngx_convotic_method_has_body(r)) {
        r->keepalive = 0;
    }

    rc = ngx_http_discard_request_body(r);
    if (rc != NGX_OK) {
        return rc;
    }

    if (answer->status == NGX_HTTP_OK) {
        ngx_convotic_send_select(r, answer, &form);

        if (!ngx_convotic_send_precondition(r, form.etag)) {
            answer->headers = NULL;
            ngx_convotic_error_set(answer, NGX_HTTP_PRECONDITION_FAILED);
        }
    }

    rc = ngx_convotic_send_answer(r, ctx, &form);

    if (rc == NGX_HTTP_RANGE_NOT_SATISFIABLE) {

        /* it is ours to send: an "error_page" would lead around the gate */

        answer->headers = NULL;
        ngx_convotic_error_set(answer, NGX_HTTP_RANGE_NOT_SATISFIABLE);

        rc = ngx_convotic_send_answer(r, ctx, &form);
    }

    return rc;
}


/* what is made once is served as it is, and is not to be made again */

static void
ngx_convotic_send_select(ngx_http_request_t *r, ngx_convotic_answer_t *answer,
    ngx_convotic_send_form_t *form)
{
    ngx_convotic_body_t      *copy;
    ngx_convotic_loc_conf_t  *conf;

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);
    copy = answer->copy;

    form->body = copy->content;
    form->etag = &copy->etag;
    form->encoded = 0;

    if (!conf->gzip) {
        return;
    }

#if (NGX_HTTP_GZIP)
    r->gzip_tested = 1;
    r->gzip_ok = 0;
#endif

    if (copy->gzip.len && ngx_convotic_gzip_accepted(r)) {
        form->body = copy->gzip;
        form->etag = &copy->gzip_etag;
        form->encoded = 1;

        /* "gunzip" is for those who do not take it */

#if (NGX_HTTP_GZIP)
        r->gzip_ok = 1;
#endif
    }
}


static ngx_int_t
ngx_convotic_send_answer(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx,
    ngx_convotic_send_form_t *form)
{
    ngx_int_t               rc;
    ngx_buf_t              *b;
    ngx_chain_t             out;
    ngx_convotic_answer_t  *answer;

    answer = &ctx->answer;

    ngx_convotic_send_clear(r);

    if (answer->status >= NGX_HTTP_BAD_REQUEST) {
        rc = ngx_convotic_send_error(r, answer, &form->body);

    } else {
        rc = ngx_convotic_send_success_headers(r, answer, form);
    }

    if (rc != NGX_OK || ngx_convotic_send_headers(r, ctx) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* behind the header it would be too late to answer with an error */

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* nginx prints err_status first, if an error page led here */

    if (r->err_status) {
        r->err_status = answer->status;
    }

    r->headers_out.status = answer->status;
    r->headers_out.content_length_n = form->body.len;
    ngx_str_set(&r->headers_out.content_type, "application/json");
    r->headers_out.content_type_len = r->headers_out.content_type.len;
    r->headers_out.content_type_lowcase = NULL;

    ctx->sent = answer->status;

    rc = ngx_http_send_header(r);

    if (rc == NGX_HTTP_RANGE_NOT_SATISFIABLE) {
        return rc;
    }

    ngx_convotic_send_count(r, ctx);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    b->pos = form->body.data;
    b->last = form->body.data + form->body.len;
    b->memory = form->body.len ? 1 : 0;
    b->last_buf = 1;
    b->last_in_chain = 1;

    out.buf = b;
    out.next = NULL;

    return ngx_http_output_filter(r, &out);
}


/* what an upstream that redirected to here has left, or a first attempt */

static void
ngx_convotic_send_clear(ngx_http_request_t *r)
{
    ngx_uint_t               k;
    ngx_table_elt_t         *header;
    ngx_convotic_headers_t   it;

    static ngx_str_t  names[] = {
        ngx_string("Cache-Control"),
        ngx_string("Expires"),
        ngx_string("Vary"),
        ngx_string("Age"),
        ngx_string("Retry-After"),
        ngx_string("Set-Cookie"),
        ngx_string("Sunset"),
        ngx_string("Deprecation"),
        ngx_string("Link"),
        ngx_string("Cache-Status"),
        ngx_string("X-RateLimit-Limit"),
        ngx_string("X-RateLimit-Remaining"),
        ngx_string("RateLimit-Policy"),
        ngx_string("RateLimit")
    };

    ngx_http_clear_etag(r);
    ngx_http_clear_last_modified(r);
    ngx_http_clear_content_length(r);

    if (r->headers_out.content_encoding) {
        r->headers_out.content_encoding->hash = 0;
        r->headers_out.content_encoding = NULL;
    }

    ngx_convotic_headers_start(&it, &r->headers_out.headers);

    while ((header = ngx_convotic_headers_next(&it)) != NULL) {

        for (k = 0; k < sizeof(names) / sizeof(names[0]); k++) {

            if (ngx_convotic_headers_is(header, &names[k])) {
                header->hash = 0;
            }
        }
    }
}


static ngx_int_t
ngx_convotic_send_error(ngx_http_request_t *r, ngx_convotic_answer_t *answer,
    ngx_str_t *body)
{
    ngx_convotic_loc_conf_t  *conf;

    static ngx_str_t  retry = ngx_string("Retry-After");

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);

    answer->status = ngx_convotic_error_status(conf, answer->status,
                                               answer->code);
    r->allow_ranges = 0;
    r->disable_not_modified = 1;

#if (NGX_HTTP_GZIP)
    r->gzip_tested = 1;
    r->gzip_ok = 0;
#endif

    if (answer->retry_after
        && ngx_convotic_send_add_number(r, &retry, answer->retry_after)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_convotic_json_error(r->pool, answer->code, &answer->message,
                                   body);
}


static ngx_int_t
ngx_convotic_send_success_headers(ngx_http_request_t *r,
    ngx_convotic_answer_t *answer, ngx_convotic_send_form_t *form)
{
    ngx_uint_t              i;
    ngx_convotic_body_t    *copy;

    static ngx_str_t  etag = ngx_string("ETag");
    static ngx_str_t  age = ngx_string("Age");
    static ngx_str_t  control = ngx_string("Cache-Control");
    static ngx_str_t  private = ngx_string("private, no-cache");
    static ngx_str_t  vary = ngx_string("Vary");
    static ngx_str_t  by = ngx_string("X-API-Key, Accept-Encoding");
    static ngx_str_t  encoding = ngx_string("Content-Encoding");
    static ngx_str_t  gzip = ngx_string("gzip");

    /* a JSON document in several parts would be of another type */

    r->allow_ranges = 1;
    r->single_range = 1;

    copy = answer->copy;

    if (ngx_convotic_headers_push(r, &etag, form->etag, &r->headers_out.etag)
        != NGX_OK
        || ngx_convotic_send_add_number(r, &age,
                                        ngx_convotic_body_age(copy) / 1000)
           != NGX_OK
        || ngx_convotic_headers_push(r, &control, &private, NULL) != NGX_OK
        || ngx_convotic_headers_push(r, &vary, &by, NULL) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (form->encoded
        && ngx_convotic_headers_push(r, &encoding, &gzip,
                                     &r->headers_out.content_encoding)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    for (i = 0; i < copy->nheaders; i++) {

        if (ngx_convotic_headers_push(r, &copy->headers[i].name,
                                      &copy->headers[i].value, NULL)
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_convotic_send_headers(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_uint_t              i;
    ngx_convotic_header_t  *header;

    if (ctx->answer.headers) {
        header = ctx->answer.headers->elts;

        for (i = 0; i < ctx->answer.headers->nelts; i++) {

            if (ngx_convotic_headers_push(r, &header[i].name,
                                          &header[i].value, NULL)
                != NGX_OK)
            {
                return NGX_ERROR;
            }
        }
    }

    if (ngx_convotic_limit_headers(r, ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_convotic_send_cache_status(r, ctx);
}


/* RFC 9211; without a key, which would tell of the store's inside */

static ngx_int_t
ngx_convotic_send_cache_status(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx)
{
    u_char                    *p, *last;
    ngx_str_t                  value;
    const char                *fwd, *detail;
    ngx_convotic_cache_ctx_t  *cache;

    static ngx_str_t  name = ngx_string("Cache-Status");
    static ngx_str_t  refused = ngx_string("convotic; detail=refused");

    cache = &ctx->cache;

    if (cache->status == NGX_CONVOTIC_CACHE_NONE) {
        return ngx_convotic_headers_push(r, &name, &refused, NULL);
    }

    fwd = NULL;
    detail = cache->detail;

    p = ngx_pnalloc(r->pool, NGX_CONVOTIC_SEND_STATUS_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    value.data = p;
    last = p + NGX_CONVOTIC_SEND_STATUS_LEN;

    p = ngx_cpymem(p, "convotic", sizeof("convotic") - 1);

    switch (cache->status) {

    case NGX_CONVOTIC_CACHE_LOCAL:
    case NGX_CONVOTIC_CACHE_HIT:
        p = ngx_cpymem(p, "; hit; ttl=", sizeof("; hit; ttl=") - 1);
        p = ngx_convotic_digits(p, cache->ttl);

        if (cache->status == NGX_CONVOTIC_CACHE_LOCAL) {
            p = ngx_cpymem(p, "; detail=local", sizeof("; detail=local") - 1);
        }

        detail = NULL;
        break;

    case NGX_CONVOTIC_CACHE_UPDATING:

        /* RFC 9211, 2.1: served without waiting for what was forwarded */

        p = ngx_slprintf(p, last, "; hit; ttl=%i", cache->ttl);
        detail = "updating";
        break;

    case NGX_CONVOTIC_CACHE_MISS:
        fwd = detail ? "miss" : "uri-miss";
        break;

    case NGX_CONVOTIC_CACHE_EXPIRED:
        fwd = "stale";
        break;

    case NGX_CONVOTIC_CACHE_STALE:
        fwd = "stale";
        detail = "stale-if-error";
        break;

    default: /* NGX_CONVOTIC_CACHE_BYPASS */
        fwd = "bypass";
        break;
    }

    if (fwd) {
        p = ngx_slprintf(p, last, "; fwd=%s", fwd);

        if (cache->fwd_status) {
            p = ngx_slprintf(p, last, "; fwd-status=%ui", cache->fwd_status);
        }

        if (cache->stored) {
            p = ngx_slprintf(p, last, "; stored");
        }

        if (cache->stored || cache->collapsed
            || cache->status == NGX_CONVOTIC_CACHE_STALE)
        {
            p = ngx_slprintf(p, last, "; ttl=%i", cache->ttl);
        }

        if (cache->collapsed) {
            p = ngx_slprintf(p, last, "; collapsed");
        }
    }

    if (detail) {
        p = ngx_slprintf(p, last, "; detail=%s", detail);
    }

    value.len = p - value.data;

    return ngx_convotic_headers_push(r, &name, &value, NULL);
}


static void
ngx_convotic_send_count(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_convotic_main_conf_t  *mcf;

    static const ngx_uint_t  results[] = {
        NGX_CONVOTIC_COUNT_REFUSED,      /* NGX_CONVOTIC_CACHE_NONE */
        NGX_CONVOTIC_COUNT_LOCAL,
        NGX_CONVOTIC_COUNT_HIT,
        NGX_CONVOTIC_COUNT_MISS,
        NGX_CONVOTIC_COUNT_EXPIRED,
        NGX_CONVOTIC_COUNT_UPDATING,
        NGX_CONVOTIC_COUNT_STALE,
        NGX_CONVOTIC_COUNT_BYPASS
    };

    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    ngx_convotic_zone_count(mcf->zone, results[ctx->cache.status]);

    if (ctx->cache.collapsed && ctx->answer.status == NGX_HTTP_OK) {
        ngx_convotic_zone_count(mcf->zone, NGX_CONVOTIC_COUNT_WAITED_SERVED);
    }

    if (ctx->answer.code) {
        ngx_convotic_zone_count(mcf->zone,
                                NGX_CONVOTIC_COUNT_UNAUTHORIZED
                                + ngx_convotic_error_index(ctx->answer.code));
    }
}


/*
 * nginx would answer a failed If-Match with a response that has lost all our
 * headers and the connection, and an If-Unmodified-Since likewise, though
 * RFC 9110, 13.1.4 has it ignored where nothing is known of a date.
 */

static ngx_uint_t
ngx_convotic_send_precondition(ngx_http_request_t *r, ngx_str_t *etag)
{
    u_char     *p, *last, *start;
    ngx_str_t  *list;

    r->headers_in.if_unmodified_since = NULL;

    if (r->headers_in.if_match == NULL) {
        return 1;
    }

    list = &r->headers_in.if_match->value;
    r->headers_in.if_match = NULL;

    p = list->data;
    last = p + list->len;

    if (list->len == 1 && *p == '*') {
        return 1;
    }

    /* strong comparison: W/"x" never matches, and is no start of a tag */

    while (p < last) {

        while (p < last && (*p == ' ' || *p == '\t' || *p == ',')) {
            p++;
        }

        start = p;

        if (p < last && *p == '"') {
            p = ngx_strlchr(p + 1, last, '"');

            if (p == NULL) {
                return 0;
            }

            p++;

            if ((size_t) (p - start) == etag->len
                && ngx_memcmp(start, etag->data, etag->len) == 0)
            {
                return 1;
            }
        }

        while (p < last && *p != ',') {
            p++;
        }
    }

    return 0;
}


static ngx_int_t
ngx_convotic_send_add_number(ngx_http_request_t *r, ngx_str_t *name, time_t n)
{
    u_char     *last;
    ngx_str_t   value;

    last = ngx_pnalloc(r->pool, NGX_CONVOTIC_DIGITS_MAX);
    if (last == NULL) {
        return NGX_ERROR;
    }

    last += NGX_CONVOTIC_DIGITS_MAX;

    value.data = ngx_convotic_digits_before(last, n);
    value.len = last - value.data;

    return ngx_convotic_headers_push(r, name, &value, NULL);
}
