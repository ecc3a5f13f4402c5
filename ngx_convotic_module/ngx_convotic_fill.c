
/*
 * Owns the way to the upstream and back: the subrequest and what it may
 * carry, the collecting of its output, the judging, the answer that follows.
 *
 * Two requests are involved.  r, the main one, waits and is not touched, so
 * that its variables and logs stay true.  sr, its clone in the background,
 * runs the location's own content handler, "proxy_pass" most likely.  The
 * fill lives in the main request's pool.  It ends once: when sr is finalized
 * or, before that, by its timer, which is also how it is cut short, for a
 * filter cannot stop an upstream that has called it.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_json.h"
#include "ngx_convotic_headers.h"
#include "ngx_convotic_zone.h"
#include "ngx_convotic_fresh.h"
#include "ngx_convotic_body.h"
#include "ngx_convotic_local.h"
#include "ngx_convotic_error.h"
#include "ngx_convotic_cache.h"
#include "ngx_convotic_send.h"
#include "ngx_convotic_fill.h"


/* where an error's body may have a message */
#define NGX_CONVOTIC_FILL_ERROR_MAX   16384

/* of trace ids, which are passed on if they are visible ASCII */
#define NGX_CONVOTIC_FILL_TRACE_MAX   512

/* RFC 9110, 15: statuses end here */
#define NGX_CONVOTIC_FILL_STATUS_MAX  599

/* of a body whose length is not known, to begin with */
#define NGX_CONVOTIC_FILL_BUFFER      8192

/* digests of bodies that were found to be as documented, in a worker */
#define NGX_CONVOTIC_FILL_JUDGED      1024

/* a body is fresh for at most this part of its time less than it could be */
#define NGX_CONVOTIC_FILL_JITTER      10


struct ngx_convotic_fill_s {
    ngx_http_request_t         *request;     /* sr */
    ngx_convotic_ctx_t         *ctx;         /* r's */
    ngx_convotic_answer_t      *answer;      /* that comes of it */
    ngx_event_t                 event;       /* the deadline, or the end */
    ngx_http_posted_request_t   posted;      /* r, to be woken */
    ngx_msec_t                  start;

    ngx_uint_t                  status;      /* 0: no header yet */
    ngx_str_t                   body;
    size_t                      size;        /* allocated */
    size_t                      max;         /* 0: the body is of no use */
    ngx_array_t                 headers;     /* of ngx_convotic_header_t */
    ngx_convotic_fresh_t        fresh;

    const char                 *refused;     /* why; NULL: not */
    ngx_uint_t                  refused_status;
    unsigned                    exhausted:1; /* refused for want of memory */
    unsigned                    encoded:1;
    unsigned                    complete:1;  /* the end of the body was seen */
    unsigned                    ended:1;
    unsigned                    behind:1;    /* nobody waits for it */
    unsigned                    shared:1;    /* others may be given it */
};


struct ngx_convotic_fill_judged_s {
    u_char                      etag[NGX_CONVOTIC_BODY_ETAG_LEN];
    ngx_int_t                   limit;
};


static ngx_convotic_fill_t *ngx_convotic_fill_create(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_fill_start(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx, ngx_convotic_fill_t *fill);
static void ngx_convotic_fill_abort_handler(ngx_http_request_t *sr);
static ngx_int_t ngx_convotic_fill_prepare(ngx_http_request_t *r,
    ngx_http_request_t *sr, ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_fill_variables(ngx_http_request_t *sr);
static ngx_int_t ngx_convotic_fill_headers(ngx_http_request_t *r,
    ngx_http_request_t *sr, ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_fill_host(ngx_http_request_t *r,
    ngx_http_request_t *sr);
static ngx_int_t ngx_convotic_fill_trace(ngx_http_request_t *r,
    ngx_http_request_t *sr);
static ngx_uint_t ngx_convotic_fill_traceable(ngx_str_t *value);
static ngx_table_elt_t *ngx_convotic_fill_add(ngx_http_request_t *sr,
    ngx_str_t *name, ngx_str_t *value);
static void ngx_convotic_fill_cleanup(void *data);
static void ngx_convotic_fill_refuse(ngx_convotic_fill_t *fill,
    ngx_uint_t status, const char *why);
static void ngx_convotic_fill_exhaust(ngx_convotic_fill_t *fill);
static void ngx_convotic_fill_event_handler(ngx_event_t *ev);
static ngx_uint_t ngx_convotic_fill_identified(ngx_convotic_fill_t *fill,
    ngx_http_upstream_t *u);
static void ngx_convotic_fill_inspect(ngx_convotic_fill_t *fill,
    ngx_http_request_t *sr);
static void ngx_convotic_fill_inspect_header(ngx_convotic_fill_t *fill,
    ngx_table_elt_t *header);
static void ngx_convotic_fill_keep(ngx_convotic_fill_t *fill,
    ngx_http_request_t *sr);
static void ngx_convotic_fill_keep_header(ngx_convotic_fill_t *fill,
    ngx_table_elt_t *header);
static ngx_uint_t ngx_convotic_fill_canonical(ngx_http_request_t *sr,
    ngx_str_t *query);
static void ngx_convotic_fill_collect(ngx_convotic_fill_t *fill,
    ngx_http_request_t *sr, ngx_buf_t *b);
static ngx_int_t ngx_convotic_fill_done(ngx_http_request_t *sr, void *data,
    ngx_int_t rc);
static void ngx_convotic_fill_end(ngx_convotic_fill_t *fill, ngx_int_t rc);
static void ngx_convotic_fill_stale(ngx_convotic_ctx_t *ctx);
static void ngx_convotic_fill_confirmed(ngx_convotic_ctx_t *ctx);
static void ngx_convotic_fill_wake(ngx_convotic_fill_t *fill);
static ngx_uint_t ngx_convotic_fill_judge(ngx_http_request_t *r,
    ngx_convotic_fill_t *fill, ngx_int_t rc);
static ngx_uint_t ngx_convotic_fill_status(ngx_convotic_fill_t *fill,
    ngx_int_t rc);
static ngx_uint_t ngx_convotic_fill_judge_body(ngx_http_request_t *r,
    ngx_convotic_fill_t *fill);
static ngx_int_t ngx_convotic_fill_judge_bytes(ngx_convotic_main_conf_t *mcf,
    ngx_convotic_fill_t *fill, ngx_str_t *etag, ngx_int_t *limit,
    const char **err);
static ngx_convotic_body_t *ngx_convotic_fill_previous(ngx_http_request_t *r,
    ngx_convotic_fill_t *fill);
static ngx_uint_t ngx_convotic_fill_may_store(ngx_http_request_t *r,
    ngx_convotic_fill_t *fill, ngx_int_t limit,
    ngx_convotic_body_parts_t *parts);
static ngx_msec_t ngx_convotic_fill_age(ngx_convotic_fill_t *fill);
static ngx_uint_t ngx_convotic_fill_store(ngx_http_request_t *r,
    ngx_convotic_fill_t *fill, ngx_convotic_body_parts_t *parts,
    ngx_convotic_body_t *previous);
static ngx_uint_t ngx_convotic_fill_error(ngx_http_request_t *r,
    ngx_convotic_fill_t *fill);
static ngx_uint_t ngx_convotic_fill_bad(ngx_http_request_t *r,
    ngx_convotic_fill_t *fill, ngx_uint_t status, const char *why);
static ngx_uint_t ngx_convotic_fill_lost(ngx_http_request_t *r,
    ngx_convotic_fill_t *fill);


ngx_int_t
ngx_convotic_fill_init(ngx_conf_t *cf, ngx_convotic_main_conf_t *mcf)
{
    mcf->judged = ngx_pcalloc(cf->pool, NGX_CONVOTIC_FILL_JUDGED
                                        * sizeof(ngx_convotic_fill_judged_t));

    return mcf->judged ? NGX_OK : NGX_ERROR;
}


ngx_int_t
ngx_convotic_fill_handler(ngx_http_request_t *r)
{
    ngx_convotic_ctx_t   *ctx;
    ngx_convotic_fill_t  *fill;

    ctx = ngx_http_get_module_ctx(r, ngx_convotic_module);

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, r->connection->log, 0,
                   "convotic fill handler: \"%V\"", &ctx->query);

    fill = ngx_convotic_fill_create(r, ctx);
    if (fill == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    fill->answer = &ctx->answer;
    ctx->fill = fill;

    if (ngx_convotic_fill_start(r, ctx, fill) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /*
     * The main request now waits for the fill, whether its client does or
     * not: what has been asked for is worth storing.
     */

    r->read_event_handler = ngx_http_block_reading;
    r->write_event_handler = ngx_http_request_empty_handler;

    r->main->count++;

    return NGX_DONE;
}


/*
 * The request is answered and done with; its memory and its client's
 * connection, which takes no other request meanwhile, stay until the fill
 * has ended.
 */

ngx_int_t
ngx_convotic_fill_behind_handler(ngx_http_request_t *r)
{
    ngx_convotic_ctx_t        *ctx;
    ngx_convotic_fill_t       *fill;
    ngx_convotic_main_conf_t  *mcf;

    ctx = ngx_http_get_module_ctx(r, ngx_convotic_module);

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, r->connection->log, 0,
                   "convotic fill behind handler: \"%V\"", &ctx->query);

    fill = ngx_convotic_fill_create(r, ctx);

    if (fill) {
        fill->behind = 1;
        fill->answer = ngx_pcalloc(r->pool, sizeof(ngx_convotic_answer_t));
    }

    if (fill && fill->answer
        && ngx_convotic_fill_start(r, ctx, fill) == NGX_OK)
    {
        mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);
        ngx_convotic_zone_count(mcf->zone, NGX_CONVOTIC_COUNT_REFRESHES);
    }

    return ngx_convotic_send(r);
}


static ngx_convotic_fill_t *
ngx_convotic_fill_create(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_http_cleanup_t   *cln;
    ngx_convotic_fill_t  *fill;

    fill = ngx_pcalloc(r->pool, sizeof(ngx_convotic_fill_t));
    cln = ngx_http_cleanup_add(r, 0);

    if (fill == NULL || cln == NULL) {
        return NULL;
    }

    cln->handler = ngx_convotic_fill_cleanup;
    cln->data = fill;

    fill->ctx = ctx;

    return fill;
}


ngx_convotic_fill_t *
ngx_convotic_fill_get(ngx_http_request_t *r)
{
    if (r->post_subrequest == NULL
        || r->post_subrequest->handler != ngx_convotic_fill_done)
    {
        return NULL;
    }

    return r->post_subrequest->data;
}


static ngx_int_t
ngx_convotic_fill_start(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx,
    ngx_convotic_fill_t *fill)
{
    ngx_http_request_t          *sr;
    ngx_convotic_loc_conf_t     *conf;
    ngx_http_post_subrequest_t  *ps;

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);

    if (ngx_array_init(&fill->headers, r->pool, 4,
                       sizeof(ngx_convotic_header_t))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    ps = ngx_palloc(r->pool, sizeof(ngx_http_post_subrequest_t));
    if (ps == NULL) {
        return NGX_ERROR;
    }

    ps->handler = ngx_convotic_fill_done;
    ps->data = fill;

    sr = NULL;

    if (ngx_http_subrequest(r, &r->uri, &ctx->query, &sr, ps,
                            NGX_HTTP_SUBREQUEST_CLONE
                            |NGX_HTTP_SUBREQUEST_BACKGROUND)
        != NGX_OK)
    {
        /* one that could not be posted has been counted all the same */

        if (sr) {
            r->main->count--;
        }

        return NGX_ERROR;
    }

    fill->request = sr;
    fill->start = ngx_current_msec;

    fill->event.handler = ngx_convotic_fill_event_handler;
    fill->event.data = fill;
    fill->event.log = r->connection->log;

    ngx_add_timer(&fill->event, conf->fill_timeout);

    if (ngx_convotic_fill_prepare(r, sr, ctx) != NGX_OK) {

        /* it has been posted and counted: it is to end as any other */

        sr->write_event_handler = ngx_convotic_fill_abort_handler;
    }

    return NGX_OK;
}


static void
ngx_convotic_fill_abort_handler(ngx_http_request_t *sr)
{
    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, sr->connection->log, 0,
                   "convotic fill abort handler");

    ngx_http_finalize_request(sr, NGX_HTTP_INTERNAL_SERVER_ERROR);
}


/*
 * What is not in the cache's key must not steer the answer: of the client's
 * request, the subrequest has nothing but what is put in here.
 */

static ngx_int_t
ngx_convotic_fill_prepare(ngx_http_request_t *r, ngx_http_request_t *sr,
    ngx_convotic_ctx_t *ctx)
{
    u_char     *p;
    uintptr_t   escape;

    sr->content_handler = ctx->content_handler;
    sr->method = NGX_HTTP_GET;
    sr->method_name = ngx_http_core_get_method;
    sr->filter_need_in_memory = 1;
    sr->request_body = NULL;

    /* "proxy_pass" without a URI would send the client's own otherwise */

    sr->valid_unparsed_uri = 0;

    /* r->uri is decoded, and may have a line's end in it */

    escape = 2 * ngx_escape_uri(NULL, r->uri.data, r->uri.len,
                                NGX_ESCAPE_URI);

    p = ngx_pnalloc(r->pool, r->uri.len + escape + 1 + ctx->query.len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    sr->unparsed_uri.data = p;

    p = (u_char *) ngx_escape_uri(p, r->uri.data, r->uri.len, NGX_ESCAPE_URI);
    *p++ = '?';
    p = ngx_cpymem(p, ctx->query.data, ctx->query.len);

    sr->unparsed_uri.len = p - sr->unparsed_uri.data;

    if (ngx_convotic_fill_headers(r, sr, ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_convotic_fill_variables(sr);
}


/*
 * Values of its own, so that what it evaluates is not logged as the client's.
 * What nginx reads from a request is to be read from this one; what "set" and
 * captures have made stays, for it cannot be made again.
 */

static ngx_int_t
ngx_convotic_fill_variables(ngx_http_request_t *sr)
{
    ngx_uint_t                  i;
    ngx_http_variable_t        *v;
    ngx_http_variable_value_t  *value, *old;
    ngx_http_core_main_conf_t  *cmcf;

    cmcf = ngx_http_get_module_main_conf(sr, ngx_http_core_module);

    v = cmcf->variables.elts;
    old = sr->variables;

    value = ngx_pcalloc(sr->pool, cmcf->variables.nelts
                                  * sizeof(ngx_http_variable_value_t));
    if (value == NULL) {
        return NGX_ERROR;
    }

    for (i = 0; i < cmcf->variables.nelts; i++) {

        if (v[i].name.len == sizeof("request_id") - 1
            && ngx_strncmp(v[i].name.data, "request_id", v[i].name.len) == 0)
        {
            /* random, and to be the same in the log */

            (void) ngx_http_get_indexed_variable(sr->main, i);
            value[i] = old[i];
            continue;
        }

        /* an index for a datum, and no pointer: "set", or a capture */

        if ((v[i].flags & NGX_HTTP_VAR_CHANGEABLE)
            && !(v[i].flags & NGX_HTTP_VAR_NOCACHEABLE)
            && v[i].data < cmcf->variables.nelts)
        {
            value[i] = old[i];
        }
    }

    sr->variables = value;

    /* of the rest, "auth_request_set" and its like can only be kept */

    for (i = 0; i < cmcf->variables.nelts; i++) {

        if (old[i].valid && !value[i].valid
            && (v[i].flags & NGX_HTTP_VAR_CHANGEABLE)
            && !(v[i].flags & NGX_HTTP_VAR_NOCACHEABLE))
        {
            (void) ngx_http_get_indexed_variable(sr, i);

            if (!value[i].valid) {
                value[i] = old[i];
            }
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_convotic_fill_headers(ngx_http_request_t *r, ngx_http_request_t *sr,
    ngx_convotic_ctx_t *ctx)
{
    static ngx_str_t  accept = ngx_string("Accept");
    static ngx_str_t  json = ngx_string("application/json");
    static ngx_str_t  workspace = ngx_string("X-Convotic-Workspace");
    static ngx_str_t  key_id = ngx_string("X-Convotic-Key-Id");

    ngx_memzero(&sr->headers_in, sizeof(ngx_http_headers_in_t));

    sr->headers_in.content_length_n = -1;
    sr->headers_in.keep_alive_n = -1;

    if (ngx_list_init(&sr->headers_in.headers, r->pool, 8,
                      sizeof(ngx_table_elt_t))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ngx_convotic_fill_add(sr, &workspace, &ctx->workspace) == NULL
        || ngx_convotic_fill_add(sr, &key_id, &ctx->key_id) == NULL
        || ngx_convotic_fill_add(sr, &accept, &json) == NULL)
    {
        return NGX_ERROR;
    }

    if (ngx_convotic_fill_host(r, sr) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_convotic_fill_trace(r, sr);
}


/* the server's own name, where it has one: not the client's choice */

static ngx_int_t
ngx_convotic_fill_host(ngx_http_request_t *r, ngx_http_request_t *sr)
{
    ngx_str_t                 value;
    ngx_convotic_loc_conf_t  *conf;

    static ngx_str_t  host = ngx_string("Host");

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);

    value = conf->host.len ? conf->host : r->headers_in.server;
    sr->headers_in.server = value;

    if (value.len == 0) {
        return NGX_OK;
    }

    sr->headers_in.host = ngx_convotic_fill_add(sr, &host, &value);

    return sr->headers_in.host ? NGX_OK : NGX_ERROR;
}


/* these trace a request and steer nothing */

static ngx_int_t
ngx_convotic_fill_trace(ngx_http_request_t *r, ngx_http_request_t *sr)
{
    ngx_uint_t               k, seen;
    ngx_table_elt_t         *header;
    ngx_convotic_headers_t   it;

    static ngx_str_t  names[] = {
        ngx_string("traceparent"),
        ngx_string("tracestate"),
        ngx_string("X-Request-Id")
    };

    seen = 0;

    ngx_convotic_headers_start(&it, &r->headers_in.headers);

    while ((header = ngx_convotic_headers_next(&it)) != NULL) {

        for (k = 0; k < sizeof(names) / sizeof(names[0]); k++) {

            if ((seen & (1 << k))
                || !ngx_convotic_headers_is(header, &names[k])
                || !ngx_convotic_fill_traceable(&header->value))
            {
                continue;
            }

            seen |= 1 << k;

            if (ngx_convotic_fill_add(sr, &names[k], &header->value) == NULL)
            {
                return NGX_ERROR;
            }
        }
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_convotic_fill_traceable(ngx_str_t *value)
{
    size_t  i;

    if (value->len > NGX_CONVOTIC_FILL_TRACE_MAX) {
        return 0;
    }

    for (i = 0; i < value->len; i++) {
        if (value->data[i] < ' ' || value->data[i] > '~') {
            return 0;
        }
    }

    return 1;
}


static ngx_table_elt_t *
ngx_convotic_fill_add(ngx_http_request_t *sr, ngx_str_t *name,
    ngx_str_t *value)
{
    ngx_table_elt_t  *h;

    h = ngx_list_push(&sr->headers_in.headers);
    if (h == NULL) {
        return NULL;
    }

    /* "next" too, which nginx has since 1.23 */

    ngx_memzero(h, sizeof(ngx_table_elt_t));

    h->key = *name;
    h->value = *value;

    h->lowcase_key = ngx_pnalloc(sr->pool, name->len);
    if (h->lowcase_key == NULL) {
        return NULL;
    }

    h->hash = ngx_hash_strlow(h->lowcase_key, name->data, name->len);

    return h;
}


/* the main request ends: nothing of the fill may run after this */

static void
ngx_convotic_fill_cleanup(void *data)
{
    ngx_convotic_fill_t  *fill = data;

    fill->ended = 1;

    if (fill->event.timer_set) {
        ngx_del_timer(&fill->event);
    }

    if (fill->event.posted) {
        ngx_delete_posted_event(&fill->event);
    }
}


/* to be cut short, but not from within the upstream's own call */

static void
ngx_convotic_fill_refuse(ngx_convotic_fill_t *fill, ngx_uint_t status,
    const char *why)
{
    if (fill->refused) {
        return;
    }

    fill->refused = why;
    fill->refused_status = status;

    if (!fill->event.posted) {
        ngx_post_event(&fill->event, &ngx_posted_events);
    }
}


static void
ngx_convotic_fill_exhaust(ngx_convotic_fill_t *fill)
{
    if (fill->refused == NULL) {
        fill->exhausted = 1;
    }

    ngx_convotic_fill_refuse(fill, NGX_HTTP_INTERNAL_SERVER_ERROR,
                             "no memory");
}


static void
ngx_convotic_fill_event_handler(ngx_event_t *ev)
{
    ngx_connection_t            *c;
    ngx_http_request_t          *r, *sr;
    ngx_convotic_fill_t         *fill;
    ngx_http_upstream_t         *u;
    ngx_http_cleanup_pt          cancel;

    fill = ev->data;
    sr = fill->request;
    r = sr->main;
    c = r->connection;

    ngx_http_set_log_request(c->log, r);

    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, c->log, 0,
                   "convotic fill event handler");

    if (fill->refused == NULL) {
        fill->refused = "it did not come in time";
        fill->refused_status = NGX_HTTP_GATEWAY_TIME_OUT;
    }

    u = sr->upstream;

    /*
     * Closes the upstream's connection and gives back the subrequest's count,
     * without calling ngx_convotic_fill_done().  What has no upstream cannot
     * be stopped and is not waited for.  Where the main request has ended
     * before, that count may be the last one: one more keeps the memory.
     */

    r->count++;

    if (u && u->cleanup) {
        cancel = *u->cleanup;
        cancel(sr);

        sr->write_event_handler = ngx_http_request_empty_handler;
    }

    ngx_convotic_fill_end(fill, NGX_ERROR);

    ngx_http_finalize_request(r, NGX_DONE);

    ngx_http_run_posted_requests(c);
}


ngx_int_t
ngx_convotic_fill_header(ngx_convotic_fill_t *fill, ngx_http_request_t *sr)
{
    off_t                     length;
    ngx_http_upstream_t      *u;
    ngx_convotic_loc_conf_t  *conf;

    sr->header_sent = 1;

    if (fill->ended) {
        return NGX_OK;
    }

    u = sr->upstream;
    conf = ngx_http_get_module_loc_conf(sr->main, ngx_convotic_module);

    fill->status = sr->headers_out.status;

    if (u) {

        /* no temporary files, and no waiting for the client to read */

        u->buffering = 0;

        if (u->cacheable || u->store
#if (NGX_HTTP_CACHE)
            || sr->cached
#endif
           )
        {
            ngx_convotic_fill_refuse(fill, NGX_HTTP_INTERNAL_SERVER_ERROR,
                                     "proxy_cache and proxy_store know no "
                                     "tenant");
            return NGX_OK;
        }
    }

    if (u && !ngx_convotic_fill_identified(fill, u)) {
        ngx_convotic_fill_refuse(fill, NGX_HTTP_INTERNAL_SERVER_ERROR,
                                 "\"proxy_set_header\" took the workspace "
                                 "from its request");
        return NGX_OK;
    }

    if (sr->uri_changes != NGX_HTTP_MAX_URI_CHANGES + 1) {
        ngx_convotic_fill_refuse(fill, NGX_HTTP_BAD_GATEWAY,
                                 "it was redirected within nginx");
        return NGX_OK;
    }

    ngx_convotic_fresh_init(&fill->fresh, u ? u->conf->ignore_headers : 0);

    ngx_convotic_fill_inspect(fill, sr);
    ngx_convotic_fill_keep(fill, sr);

    if (fill->encoded && fill->status == NGX_HTTP_OK) {
        ngx_convotic_fill_refuse(fill, NGX_HTTP_BAD_GATEWAY, "it is encoded");
    }

    if (fill->refused) {
        return NGX_OK;
    }

    length = sr->headers_out.content_length_n;

    if (fill->status == NGX_HTTP_OK) {
        fill->max = conf->cache_max_size;

        if (length > (off_t) fill->max) {
            ngx_convotic_fill_refuse(fill, NGX_HTTP_BAD_GATEWAY,
                                     "it is larger than "
                                     "\"convotic_cache_max_size\"");
            return NGX_OK;
        }

    } else if (fill->status >= NGX_HTTP_BAD_REQUEST
               && fill->status < NGX_HTTP_INTERNAL_SERVER_ERROR
               && !fill->encoded)
    {
        fill->max = NGX_CONVOTIC_FILL_ERROR_MAX;
    }

    fill->size = (length > 0 && length <= (off_t) fill->max)
                 ? (size_t) length
                 : ngx_min(fill->max, NGX_CONVOTIC_FILL_BUFFER);

    if (fill->size) {
        fill->body.data = ngx_pnalloc(sr->pool, fill->size);

        if (fill->body.data == NULL) {
            ngx_convotic_fill_exhaust(fill);
        }
    }

    return NGX_OK;
}


/*
 * A "proxy_set_header X-Convotic-Workspace" stands in for the header of ours:
 * the upstream has then answered nobody, or somebody else.
 */

static ngx_uint_t
ngx_convotic_fill_identified(ngx_convotic_fill_t *fill,
    ngx_http_upstream_t *u)
{
    u_char      line[sizeof("\nX-Convotic-Workspace: \r")
                     + NGX_CONVOTIC_NAME_LEN];
    ngx_buf_t  *b;

    /* the others have no lines */

    if (u->request_bufs == NULL || u->schema.len < 4
        || ngx_strncmp(u->schema.data, "http", 4) != 0)
    {
        return 1;
    }

    b = u->request_bufs->buf;

    ngx_sprintf(line, "\nX-Convotic-Workspace: %V\r%Z",
                &fill->ctx->workspace);

    return ngx_strnstr(b->start, (char *) line, b->last - b->start) != NULL;
}


ngx_int_t
ngx_convotic_fill_body(ngx_convotic_fill_t *fill, ngx_http_request_t *sr,
    ngx_chain_t *in)
{
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    for (cl = in; cl; cl = cl->next) {
        b = cl->buf;

        if (!fill->ended && fill->refused == NULL) {
            ngx_convotic_fill_collect(fill, sr, b);
        }

        /* a lone flush, of an upstream that broke off, is no end */

        if (b->last_in_chain || b->last_buf) {
            fill->complete = 1;
        }

        /* consumed, or the upstream would stall */

        b->pos = b->last;
        b->file_pos = b->file_last;
    }

    return NGX_OK;
}


/* the upstream's headers; those of other content handlers are nginx's */

static void
ngx_convotic_fill_inspect(ngx_convotic_fill_t *fill, ngx_http_request_t *sr)
{
    ngx_table_elt_t         *header;
    ngx_convotic_headers_t   it;

    ngx_convotic_headers_start(&it, sr->upstream
                                    ? &sr->upstream->headers_in.headers
                                    : &sr->headers_out.headers);

    while ((header = ngx_convotic_headers_next(&it)) != NULL) {

        if (header->hash) {
            ngx_convotic_fill_inspect_header(fill, header);
        }
    }

    if (!ngx_convotic_fill_canonical(sr, &fill->ctx->query)
        && fill->fresh.refused == NULL)
    {
        fill->fresh.refused = "the query that went to the upstream is not "
                              "the canonical one";
    }
}


static void
ngx_convotic_fill_inspect_header(ngx_convotic_fill_t *fill,
    ngx_table_elt_t *header)
{
    ngx_str_t  *name, *value, *workspace;

    static ngx_str_t  encoding = ngx_string("Content-Encoding");
    static ngx_str_t  ours = ngx_string("X-Convotic-Workspace");

    name = &header->key;
    value = &header->value;
    workspace = &fill->ctx->workspace;

    if (ngx_convotic_headers_is(header, &ours)
        && (value->len != workspace->len
            || ngx_memcmp(value->data, workspace->data, value->len) != 0))
    {
        ngx_convotic_fill_refuse(fill, NGX_HTTP_BAD_GATEWAY,
                                 "it is marked as another workspace's");
        return;
    }

    if (ngx_convotic_headers_is(header, &encoding)
        && (value->len != 8
            || ngx_strncasecmp(value->data, (u_char *) "identity", 8) != 0))
    {
        fill->encoded = 1;
    }

    ngx_convotic_fresh_header(&fill->fresh, name, value);
}


/* what goes to the client, of the headers that "proxy_hide_header" leaves */

static void
ngx_convotic_fill_keep(ngx_convotic_fill_t *fill, ngx_http_request_t *sr)
{
    ngx_table_elt_t         *header;
    ngx_convotic_headers_t   it;

    ngx_convotic_headers_start(&it, &sr->headers_out.headers);

    while ((header = ngx_convotic_headers_next(&it)) != NULL) {

        if (header->hash) {
            ngx_convotic_fill_keep_header(fill, header);
        }
    }
}


static void
ngx_convotic_fill_keep_header(ngx_convotic_fill_t *fill,
    ngx_table_elt_t *header)
{
    ngx_str_t              *name;
    ngx_uint_t              i;
    ngx_convotic_header_t  *h;

    static ngx_str_t  errors[] = {
        ngx_string("Retry-After"),
        ngx_string("Allow")
    };

    name = ngx_convotic_body_kept(&header->key, &header->value);

    for (i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {

        if (fill->status >= NGX_HTTP_BAD_REQUEST
            && ngx_convotic_headers_is(header, &errors[i]))
        {
            name = &errors[i];
        }
    }

    if (name == NULL) {
        return;
    }

    h = ngx_array_push(&fill->headers);

    if (h == NULL) {
        ngx_convotic_fill_exhaust(fill);
        return;
    }

    /* header lines have been copied from the upstream's buffer */

    h->name = *name;
    h->value = header->value;
}


/*
 * A "proxy_pass" with $request_uri or a rewritten query goes its own way:
 * what came of it may be served, but not to others.
 */

static ngx_uint_t
ngx_convotic_fill_canonical(ngx_http_request_t *sr, ngx_str_t *query)
{
    u_char     *p;
    ngx_str_t  *uri;

    if (sr->upstream == NULL || sr->upstream->uri.len == 0) {
        return 1;
    }

    uri = &sr->upstream->uri;

    p = ngx_strlchr(uri->data, uri->data + uri->len, '?');

    return p
           && (size_t) (uri->data + uri->len - p - 1) == query->len
           && ngx_memcmp(p + 1, query->data, query->len) == 0;
}


static void
ngx_convotic_fill_collect(ngx_convotic_fill_t *fill, ngx_http_request_t *sr,
    ngx_buf_t *b)
{
    size_t   len, size;
    u_char  *p;

    if (!ngx_buf_in_memory(b) || b->last == b->pos) {
        return;
    }

    len = b->last - b->pos;

    if (len > fill->max - fill->body.len) {

        if (fill->status == NGX_HTTP_OK) {
            ngx_convotic_fill_refuse(fill, NGX_HTTP_BAD_GATEWAY,
                                     "it is larger than "
                                     "\"convotic_cache_max_size\"");
        }

        /* an error's body is of no use then */

        fill->max = 0;
        fill->body.len = 0;
        return;
    }

    if (fill->body.len + len > fill->size) {

        size = ngx_min(fill->max, 2 * (fill->body.len + len));

        p = ngx_pnalloc(sr->pool, size);

        if (p == NULL) {
            ngx_convotic_fill_exhaust(fill);
            return;
        }

        ngx_memcpy(p, fill->body.data, fill->body.len);

        fill->body.data = p;
        fill->size = size;
    }

    ngx_memcpy(fill->body.data + fill->body.len, b->pos, len);
    fill->body.len += len;
}


/*
 * Called first thing when sr is finalized, whatever the reason.  NGX_OK keeps
 * nginx from answering with an error page of its own; if the client has left,
 * the request ends here, and is logged as such.
 */

static ngx_int_t
ngx_convotic_fill_done(ngx_http_request_t *sr, void *data, ngx_int_t rc)
{
    ngx_convotic_fill_t  *fill = data;

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, sr->connection->log, 0,
                   "convotic fill done: %i", rc);

    /* a file is still being read: it is finalized again */

    if (rc == NGX_AGAIN && (sr->buffered || sr->postponed)) {
        return rc;
    }

    if (!fill->ended) {
        ngx_convotic_fill_end(fill, rc);
    }

    return sr->connection->error ? NGX_HTTP_CLIENT_CLOSED_REQUEST : NGX_OK;
}


static void
ngx_convotic_fill_end(ngx_convotic_fill_t *fill, ngx_int_t rc)
{
    ngx_http_request_t        *r, *sr;
    ngx_convotic_ctx_t        *ctx;
    ngx_convotic_main_conf_t  *mcf;

    ngx_convotic_fill_cleanup(fill);

    sr = fill->request;
    r = sr->main;
    ctx = fill->ctx;

    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    ngx_convotic_zone_count(mcf->zone, ngx_convotic_fill_judge(r, fill, rc));
    ngx_convotic_zone_time(mcf->zone, NGX_CONVOTIC_TIME_FILL,
                           ngx_current_msec - fill->start);

    ngx_convotic_cache_fetched(r, ctx, fill->answer, fill->shared);

    if (fill->behind) {
        return;
    }

    /* for $upstream_addr and its like in the access log */

    r->upstream_states = sr->upstream_states;

    if (fill->answer->status >= NGX_HTTP_INTERNAL_SERVER_ERROR
        && ctx->cache.status == NGX_CONVOTIC_CACHE_EXPIRED)
    {
        switch (ngx_convotic_cache_confirm(r, ctx)) {

        case NGX_OK:
            ngx_convotic_fill_stale(ctx);
            break;

        case NGX_AGAIN:
            ctx->resume = ngx_convotic_fill_confirmed;
            return;
        }
    }

    ngx_convotic_fill_wake(fill);
}


static void
ngx_convotic_fill_stale(ngx_convotic_ctx_t *ctx)
{
    ctx->cache.status = NGX_CONVOTIC_CACHE_STALE;
    ctx->cache.ttl = ngx_convotic_body_ttl(ctx->cache.copy);

    ngx_memzero(&ctx->answer, sizeof(ngx_convotic_answer_t));

    ctx->answer.status = NGX_HTTP_OK;
    ctx->answer.copy = ctx->cache.copy;
}


/* a stale copy stands in, if it was not purged while the upstream failed */

static void
ngx_convotic_fill_confirmed(ngx_convotic_ctx_t *ctx)
{
    ngx_connection_t    *c;
    ngx_http_request_t  *r;

    r = ctx->request;
    c = r->connection;

    ngx_http_set_log_request(c->log, r);

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, c->log, 0,
                   "convotic fill confirmed: %ui", ctx->cache.confirmed);

    if (ctx->cache.confirmed) {
        ngx_convotic_fill_stale(ctx);
    }

    ngx_convotic_fill_wake(ctx->fill);

    ngx_http_run_posted_requests(c);
}


static void
ngx_convotic_fill_wake(ngx_convotic_fill_t *fill)
{
    ngx_http_request_t  *r;

    r = fill->ctx->request;

    r->write_event_handler = ngx_convotic_send_handler;

    (void) ngx_http_post_request(r, &fill->posted);
}


/* what is to be counted */

static ngx_uint_t
ngx_convotic_fill_judge(ngx_http_request_t *r, ngx_convotic_fill_t *fill,
    ngx_int_t rc)
{
    ngx_uint_t           count;
    ngx_convotic_ctx_t  *ctx;

    ctx = fill->ctx;
    ctx->cache.fwd_status = fill->status;

    if (fill->exhausted) {
        count = ngx_convotic_fill_lost(r, fill);

    } else if (fill->refused) {
        count = ngx_convotic_fill_bad(r, fill, fill->refused_status,
                                      fill->refused);

    } else if (fill->status == 0) {

        /* the upstream module has logged why */

        ngx_convotic_error_set(fill->answer,
                               ngx_convotic_fill_status(fill, rc));

        count = NGX_CONVOTIC_COUNT_FILL_FAILED;

    } else if (fill->status >= NGX_HTTP_BAD_REQUEST
               && fill->status <= NGX_CONVOTIC_FILL_STATUS_MAX)
    {
        count = ngx_convotic_fill_error(r, fill);

    } else if (fill->status != NGX_HTTP_OK) {
        count = ngx_convotic_fill_bad(r, fill, NGX_HTTP_BAD_GATEWAY,
                                 "its status is neither 200 nor an error's");

    } else if (rc != NGX_OK || !fill->complete) {
        count = ngx_convotic_fill_bad(r, fill, NGX_HTTP_BAD_GATEWAY,
                                      "it breaks off");

    } else {
        count = ngx_convotic_fill_judge_body(r, fill);
    }

    return count;
}


/*
 * Of what ended without a header: nginx's own 5xx are told.  A 4xx is if the
 * upstream has given it ("proxy_intercept_errors"), or if there is none;
 * otherwise it is about a redirection that failed.
 */

static ngx_uint_t
ngx_convotic_fill_status(ngx_convotic_fill_t *fill, ngx_int_t rc)
{
    ngx_http_upstream_t  *u;

    u = fill->request->upstream;

    if (rc >= NGX_HTTP_INTERNAL_SERVER_ERROR) {
        return rc;
    }

    if (rc >= NGX_HTTP_BAD_REQUEST && rc != NGX_HTTP_CLIENT_CLOSED_REQUEST
        && (u == NULL || u->headers_in.status_n == (ngx_uint_t) rc))
    {
        return rc;
    }

    return NGX_HTTP_BAD_GATEWAY;
}


/*
 * What came before and was judged need not be judged again: the same bytes
 * have the same tag and the same form as gzip.
 */

static ngx_uint_t
ngx_convotic_fill_judge_body(ngx_http_request_t *r, ngx_convotic_fill_t *fill)
{
    ngx_int_t                   rc, limit;
    const char                 *err;
    ngx_convotic_ctx_t         *ctx;
    ngx_convotic_body_t        *previous;
    ngx_convotic_main_conf_t   *mcf;
    ngx_convotic_body_parts_t   parts;

    ctx = fill->ctx;
    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    ngx_memzero(&parts, sizeof(ngx_convotic_body_parts_t));

    parts.content = fill->body;
    parts.headers = fill->headers.elts;
    parts.nheaders = fill->headers.nelts;

    previous = ngx_convotic_fill_previous(r, fill);

    if (previous) {
        limit = ctx->limit;
        parts.etag = previous->etag;

        ngx_convotic_zone_count(mcf->zone, NGX_CONVOTIC_COUNT_UNCHANGED);

    } else {

        if (ngx_convotic_body_etag(r->pool, mcf->digest, &fill->body,
                                   &parts.etag)
            != NGX_OK)
        {
            return ngx_convotic_fill_lost(r, fill);
        }

        rc = ngx_convotic_fill_judge_bytes(mcf, fill, &parts.etag, &limit,
                                           &err);
        if (rc == NGX_ERROR) {
            return ngx_convotic_fill_lost(r, fill);
        }

        if (rc != NGX_OK) {
            return ngx_convotic_fill_bad(r, fill, NGX_HTTP_BAD_GATEWAY, err);
        }
    }

    fill->shared = ngx_convotic_fill_may_store(r, fill, limit, &parts);

    return ngx_convotic_fill_store(r, fill, &parts, previous);
}


/* as ngx_convotic_json_judge(); what is good is remembered by its digest */

static ngx_int_t
ngx_convotic_fill_judge_bytes(ngx_convotic_main_conf_t *mcf,
    ngx_convotic_fill_t *fill, ngx_str_t *etag, ngx_int_t *limit,
    const char **err)
{
    uint32_t                     n;
    ngx_int_t                    rc;
    ngx_convotic_fill_judged_t  *judged;

    /* behind the quotation mark */

    ngx_memcpy(&n, etag->data + 1, sizeof(uint32_t));

    judged = &mcf->judged[(n ^ n >> 16) % NGX_CONVOTIC_FILL_JUDGED];

    if (ngx_memcmp(judged->etag, etag->data, sizeof(judged->etag)) == 0) {
        *limit = judged->limit;

        ngx_convotic_zone_count(mcf->zone, NGX_CONVOTIC_COUNT_UNCHANGED);

        return NGX_OK;
    }

    rc = ngx_convotic_json_judge(&fill->body, limit, err);

    if (rc == NGX_OK) {
        ngx_memcpy(judged->etag, etag->data, sizeof(judged->etag));
        judged->limit = *limit;
    }

    return rc;
}


/* of this query, whatever its age and generation; NULL: it is another body */

static ngx_convotic_body_t *
ngx_convotic_fill_previous(ngx_http_request_t *r, ngx_convotic_fill_t *fill)
{
    ngx_convotic_ctx_t        *ctx;
    ngx_convotic_body_t       *body;
    ngx_convotic_main_conf_t  *mcf;

    ctx = fill->ctx;
    body = ctx->cache.copy;

    if (body == NULL && ctx->cache.known) {
        mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

        body = mcf->local ? ngx_convotic_local_lookup(mcf->local, ctx) : NULL;
    }

    if (body == NULL || body->content.len != fill->body.len
        || ngx_memcmp(body->content.data, fill->body.data, fill->body.len)
           != 0)
    {
        return NULL;
    }

    return body;
}


/* sets the times; 0: it is served, but not stored */

static ngx_uint_t
ngx_convotic_fill_may_store(ngx_http_request_t *r, ngx_convotic_fill_t *fill,
    ngx_int_t limit, ngx_convotic_body_parts_t *parts)
{
    ngx_msec_t                 valid, stale;
    ngx_convotic_ctx_t        *ctx;
    ngx_convotic_loc_conf_t   *conf;
    ngx_convotic_main_conf_t  *mcf;

    ctx = fill->ctx;
    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);
    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    valid = conf->cache_valid;
    stale = conf->cache_stale;

    if (limit != (ngx_int_t) ctx->limit) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "the upstream's answer to \"%V\" is not cached: "
                      "its \"limit\" is not the one asked", &ctx->query);

        parts->age = ngx_convotic_fill_age(fill);

        ngx_convotic_zone_count(mcf->zone,
                                NGX_CONVOTIC_COUNT_NOT_STORED_LIMIT);
        return 0;
    }

    if (ngx_convotic_fresh_times(&fill->fresh, &valid, &stale) != NGX_OK) {
        ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                      "the upstream's answer to \"%V\" is not cached: %s",
                      &ctx->query, fill->fresh.refused);

        parts->age = ngx_convotic_fill_age(fill);

        ngx_convotic_zone_count(mcf->zone,
                                NGX_CONVOTIC_COUNT_NOT_STORED_UPSTREAM);
        return 0;
    }

    /* what was fetched at one time is not to expire at one time */

    parts->age = ngx_convotic_fill_age(fill);
    parts->fresh = valid
                   - ngx_random() % (valid / NGX_CONVOTIC_FILL_JITTER + 1);
    parts->stale = stale;

    return ctx->cache.generation.len != 0;
}


static ngx_msec_t
ngx_convotic_fill_age(ngx_convotic_fill_t *fill)
{
    return (ngx_msec_t) ngx_min(fill->fresh.age, NGX_CONVOTIC_FRESH_MAX)
           * 1000;
}


static ngx_uint_t
ngx_convotic_fill_store(ngx_http_request_t *r, ngx_convotic_fill_t *fill,
    ngx_convotic_body_parts_t *parts, ngx_convotic_body_t *previous)
{
    ngx_convotic_ctx_t     *ctx;
    ngx_convotic_body_t    *body;
    ngx_convotic_answer_t  *answer;

    ctx = fill->ctx;
    answer = fill->answer;

    body = ngx_convotic_cache_body(r, ctx, parts, previous);

    if (body == NULL) {

        /* the headers may be more than an envelope takes */

        parts->nheaders = 0;
        fill->shared = 0;

        answer->headers = &fill->headers;
        body = ngx_convotic_cache_body(r, ctx, parts, previous);
    }

    if (body == NULL
        || ngx_convotic_body_give(body, r->pool) != NGX_OK)
    {
        answer->headers = NULL;
        return ngx_convotic_fill_lost(r, fill);
    }

    answer->status = NGX_HTTP_OK;
    answer->copy = body;

    if (!fill->shared) {
        return NGX_CONVOTIC_COUNT_FILL_PASSED;
    }

    ngx_convotic_cache_store(r, ctx, body);

    return ctx->cache.stored ? NGX_CONVOTIC_COUNT_FILL_STORED
                             : NGX_CONVOTIC_COUNT_FILL_PASSED;
}


/* the upstream's own code and message go on if they are as documented */

static ngx_uint_t
ngx_convotic_fill_error(ngx_http_request_t *r, ngx_convotic_fill_t *fill)
{
    ngx_convotic_answer_t  *answer;

    answer = fill->answer;

    ngx_convotic_error_set(answer, fill->status);

    answer->headers = &fill->headers;

    if (fill->status < NGX_HTTP_INTERNAL_SERVER_ERROR && fill->complete) {
        (void) ngx_convotic_error_adopt(r->pool, answer, &fill->body);
    }

    return NGX_CONVOTIC_COUNT_FILL_ERROR;
}


static ngx_uint_t
ngx_convotic_fill_bad(ngx_http_request_t *r, ngx_convotic_fill_t *fill,
    ngx_uint_t status, const char *why)
{
    ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                  "the upstream's answer to \"%V\" is refused: %s",
                  &fill->ctx->query, why);

    ngx_convotic_error_set(fill->answer, status);

    return NGX_CONVOTIC_COUNT_FILL_REFUSED;
}


/* there is no memory for it: that is no fault of the upstream's */

static ngx_uint_t
ngx_convotic_fill_lost(ngx_http_request_t *r, ngx_convotic_fill_t *fill)
{
    ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                  "no memory for the upstream's answer to \"%V\"",
                  &fill->ctx->query);

    ngx_convotic_error_set(fill->answer, NGX_HTTP_INTERNAL_SERVER_ERROR);

    return NGX_CONVOTIC_COUNT_FILL_FAILED;
}
