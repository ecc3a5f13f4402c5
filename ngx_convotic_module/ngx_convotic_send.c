
/*
 * Owns the response: a hit, what a fill has brought, a stale copy and an
 * error differ in ctx->answer and nowhere else.  It enters the filters at
 * their top, so that conditional requests, ranges, HEAD and gzip are nginx's
 * own.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_json.h"
#include "ngx_convotic_zone.h"
#include "ngx_convotic_error.h"
#include "ngx_convotic_method.h"
#include "ngx_convotic_ctx.h"
#include "ngx_convotic_send.h"


/* "convotic; fwd=uri-miss; fwd-status=200; stored; ttl=30; detail=..." */
#define NGX_CONVOTIC_SEND_STATUS_LEN  256


static void ngx_convotic_send_clear(ngx_http_request_t *r);
static ngx_int_t ngx_convotic_send_answer(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_send_error(ngx_http_request_t *r,
    ngx_convotic_answer_t *answer);
static ngx_int_t ngx_convotic_send_headers(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_send_success_headers(ngx_http_request_t *r,
    ngx_convotic_answer_t *answer);
static ngx_int_t ngx_convotic_send_cache_status(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static void ngx_convotic_send_count(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_send_body(ngx_http_request_t *r,
    ngx_str_t *body);
static ngx_uint_t ngx_convotic_send_precondition(ngx_http_request_t *r,
    ngx_str_t *etag);
static ngx_int_t ngx_convotic_send_push(ngx_http_request_t *r,
    ngx_str_t *name, ngx_str_t *value, ngx_table_elt_t **header);
static ngx_int_t ngx_convotic_send_add(ngx_http_request_t *r,
    const char *name, ngx_str_t *value);
static ngx_int_t ngx_convotic_send_add_text(ngx_http_request_t *r,
    const char *name, const char *value);
static ngx_int_t ngx_convotic_send_add_number(ngx_http_request_t *r,
    const char *name, time_t n);


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
    ngx_int_t               rc;
    ngx_convotic_ctx_t     *ctx;
    ngx_convotic_answer_t  *answer;

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

    if (answer->status == NGX_HTTP_OK
        && !ngx_convotic_send_precondition(r, &answer->etag))
    {
        answer->headers = NULL;
        ngx_convotic_error_set(answer, NGX_HTTP_PRECONDITION_FAILED);
    }

    rc = ngx_convotic_send_answer(r, ctx);

    if (rc == NGX_HTTP_RANGE_NOT_SATISFIABLE) {

        /* it is ours to send: an "error_page" would lead around the gate */

        answer->headers = NULL;
        ngx_convotic_error_set(answer, NGX_HTTP_RANGE_NOT_SATISFIABLE);

        rc = ngx_convotic_send_answer(r, ctx);
    }

    return rc;
}


static ngx_int_t
ngx_convotic_send_answer(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_int_t               rc;
    ngx_convotic_answer_t  *answer;

    answer = &ctx->answer;

    ngx_convotic_send_clear(r);

    if (answer->status >= NGX_HTTP_BAD_REQUEST) {
        rc = ngx_convotic_send_error(r, answer);

    } else {
        rc = ngx_convotic_send_success_headers(r, answer);
    }

    if (rc != NGX_OK || ngx_convotic_send_headers(r, ctx) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* nginx prints err_status first, if an error page led here */

    if (r->err_status) {
        r->err_status = answer->status;
    }

    r->headers_out.status = answer->status;
    r->headers_out.content_length_n = answer->body.len;
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

    return ngx_convotic_send_body(r, &answer->body);
}


/* what an upstream that redirected to here has left, or a first attempt */

static void
ngx_convotic_send_clear(ngx_http_request_t *r)
{
    ngx_uint_t        i, k;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *header;

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
        ngx_string("Cache-Status")
    };

    ngx_http_clear_etag(r);
    ngx_http_clear_last_modified(r);
    ngx_http_clear_content_length(r);

    part = &r->headers_out.headers.part;
    header = part->elts;

    for (i = 0; /* void */ ; i++) {

        if (i >= part->nelts) {
            if (part->next == NULL) {
                break;
            }

            part = part->next;
            header = part->elts;
            i = 0;
        }

        for (k = 0; k < sizeof(names) / sizeof(names[0]); k++) {

            if (header[i].key.len == names[k].len
                && ngx_strncasecmp(header[i].key.data, names[k].data,
                                   names[k].len)
                   == 0)
            {
                header[i].hash = 0;
            }
        }
    }
}


static ngx_int_t
ngx_convotic_send_error(ngx_http_request_t *r, ngx_convotic_answer_t *answer)
{
    ngx_convotic_loc_conf_t  *conf;

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
        && ngx_convotic_send_add_number(r, "Retry-After", answer->retry_after)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_convotic_json_error(r->pool, answer->code, &answer->message,
                                   &answer->body);
}


static ngx_int_t
ngx_convotic_send_success_headers(ngx_http_request_t *r,
    ngx_convotic_answer_t *answer)
{
    static ngx_str_t  etag = ngx_string("ETag");

    /* a JSON document in several parts would be of another type */

    r->allow_ranges = 1;
    r->single_range = 1;

    if (ngx_convotic_send_push(r, &etag, &answer->etag, &r->headers_out.etag)
        != NGX_OK
        || ngx_convotic_send_add_number(r, "Age", answer->age) != NGX_OK
        || ngx_convotic_send_add_text(r, "Cache-Control", "private, no-cache")
           != NGX_OK
        || ngx_convotic_send_add_text(r, "Vary", "X-API-Key, Accept-Encoding")
           != NGX_OK)
    {
        return NGX_ERROR;
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

            if (ngx_convotic_send_push(r, &header[i].name, &header[i].value,
                                       NULL)
                != NGX_OK)
            {
                return NGX_ERROR;
            }
        }
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

    cache = &ctx->cache;
    fwd = NULL;
    detail = cache->detail;

    switch (cache->status) {

    case NGX_CONVOTIC_CACHE_NONE:
        detail = "refused";
        break;

    case NGX_CONVOTIC_CACHE_HIT:
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

    case NGX_CONVOTIC_CACHE_BYPASS:
        fwd = "bypass";
        break;
    }

    p = ngx_pnalloc(r->pool, NGX_CONVOTIC_SEND_STATUS_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    value.data = p;
    last = p + NGX_CONVOTIC_SEND_STATUS_LEN;

    p = ngx_slprintf(p, last, "convotic");

    if (cache->status == NGX_CONVOTIC_CACHE_HIT) {
        p = ngx_slprintf(p, last, "; hit; ttl=%i", cache->ttl);
    }

    if (fwd) {
        p = ngx_slprintf(p, last, "; fwd=%s", fwd);

        if (cache->fwd_status) {
            p = ngx_slprintf(p, last, "; fwd-status=%ui", cache->fwd_status);
        }

        if (cache->stored) {
            p = ngx_slprintf(p, last, "; stored");
        }

        if (cache->stored || cache->status == NGX_CONVOTIC_CACHE_STALE) {
            p = ngx_slprintf(p, last, "; ttl=%i", cache->ttl);
        }
    }

    if (detail) {
        p = ngx_slprintf(p, last, "; detail=%s", detail);
    }

    value.len = p - value.data;

    return ngx_convotic_send_add(r, "Cache-Status", &value);
}


static void
ngx_convotic_send_count(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_convotic_main_conf_t  *mcf;

    static const ngx_uint_t  results[] = {
        NGX_CONVOTIC_COUNT_REFUSED,      /* NGX_CONVOTIC_CACHE_NONE */
        NGX_CONVOTIC_COUNT_HIT,
        NGX_CONVOTIC_COUNT_MISS,
        NGX_CONVOTIC_COUNT_EXPIRED,
        NGX_CONVOTIC_COUNT_STALE,
        NGX_CONVOTIC_COUNT_BYPASS
    };

    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    ngx_convotic_zone_count(mcf->zone, results[ctx->cache.status]);

    if (ctx->answer.code) {
        ngx_convotic_zone_count(mcf->zone,
                                NGX_CONVOTIC_COUNT_UNAUTHORIZED
                                + ngx_convotic_error_index(ctx->answer.code));
    }
}


static ngx_int_t
ngx_convotic_send_body(ngx_http_request_t *r, ngx_str_t *body)
{
    ngx_buf_t    *b;
    ngx_chain_t   out;

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_ERROR;
    }

    b->pos = body->data;
    b->last = body->data + body->len;
    b->memory = body->len ? 1 : 0;
    b->last_buf = 1;
    b->last_in_chain = 1;

    out.buf = b;
    out.next = NULL;

    return ngx_http_output_filter(r, &out);
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
ngx_convotic_send_push(ngx_http_request_t *r, ngx_str_t *name,
    ngx_str_t *value, ngx_table_elt_t **header)
{
    ngx_table_elt_t  *h;

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    /* "next" too, which nginx has since 1.23 */

    ngx_memzero(h, sizeof(ngx_table_elt_t));

    h->hash = 1;
    h->key = *name;
    h->value = *value;

    if (header) {
        *header = h;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_convotic_send_add(ngx_http_request_t *r, const char *name,
    ngx_str_t *value)
{
    ngx_str_t  text;

    text.data = (u_char *) name;
    text.len = ngx_strlen(name);

    return ngx_convotic_send_push(r, &text, value, NULL);
}


static ngx_int_t
ngx_convotic_send_add_text(ngx_http_request_t *r, const char *name,
    const char *value)
{
    ngx_str_t  text;

    text.data = (u_char *) value;
    text.len = ngx_strlen(value);

    return ngx_convotic_send_add(r, name, &text);
}


static ngx_int_t
ngx_convotic_send_add_number(ngx_http_request_t *r, const char *name,
    time_t n)
{
    ngx_str_t  text;

    text.data = ngx_pnalloc(r->pool, NGX_TIME_T_LEN);
    if (text.data == NULL) {
        return NGX_ERROR;
    }

    text.len = ngx_sprintf(text.data, "%T", n) - text.data;

    return ngx_convotic_send_add(r, name, &text);
}
