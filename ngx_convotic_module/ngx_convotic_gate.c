
/*
 * Owns the order of the checks and their state machine: a check passes,
 * answers, or waits for Redis or for another request.  A request that waits
 * is woken by the check's own handler, from an event of somebody else's, and
 * goes through the phases again; one that ends meanwhile has its commands
 * cancelled and waits no longer.
 *
 * The gate stands in the PRECONTENT phase, behind nginx's own checks.  The
 * access phase would not do: subrequests skip it, and "satisfy any" turns
 * its refusals into passes.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_waiters.h"
#include "ngx_convotic_redis.h"
#include "ngx_convotic_error.h"
#include "ngx_convotic_method.h"
#include "ngx_convotic_auth.h"
#include "ngx_convotic_limit.h"
#include "ngx_convotic_params.h"
#include "ngx_convotic_cache.h"
#include "ngx_convotic_ctx.h"
#include "ngx_convotic_send.h"
#include "ngx_convotic_fill.h"
#include "ngx_convotic_gate.h"


typedef ngx_int_t (*ngx_convotic_gate_check_pt)(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);


/*
 * start: NGX_OK passes, NGX_DONE has set ctx->answer, NGX_AGAIN will call
 * ctx->resume, NGX_ERROR is a fault of ours.  done, of those that wait,
 * likewise, when what they waited for has come.
 */

typedef struct {
    const char                  *name;
    ngx_convotic_gate_check_pt   start;
    ngx_convotic_gate_check_pt   done;
} ngx_convotic_gate_check_t;


static ngx_convotic_ctx_t *ngx_convotic_gate_enter(ngx_http_request_t *r);
static ngx_int_t ngx_convotic_gate_run(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_gate_pass(ngx_http_request_t *r);
static ngx_int_t ngx_convotic_gate_answer(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static void ngx_convotic_gate_resume(ngx_convotic_ctx_t *ctx);
static void ngx_convotic_gate_cleanup(void *data);


/* the first that does not pass answers */

static const ngx_convotic_gate_check_t  ngx_convotic_gate_checks[] = {
    { "method", ngx_convotic_method_start, NULL },
    { "body", ngx_convotic_method_body_start, NULL },
    { "key", ngx_convotic_auth_start, ngx_convotic_auth_done },
    { "rate", ngx_convotic_limit_start, ngx_convotic_limit_done },
    { "parameters", ngx_convotic_params_start, NULL },
    { "cache", ngx_convotic_cache_start, ngx_convotic_cache_done },
    { NULL, NULL, NULL }
};


ngx_int_t
ngx_convotic_gate_handler(ngx_http_request_t *r)
{
    ngx_convotic_ctx_t       *ctx;
    ngx_convotic_loc_conf_t  *conf;

    /* a fill begins behind this phase: it comes here only if redirected */

    if (ngx_convotic_fill_get(r)) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "the upstream's redirection to \"%V\" within nginx "
                      "is refused", &r->uri);
        return NGX_HTTP_BAD_GATEWAY;
    }

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);

    if (!conf->enable) {
        return NGX_DECLINED;
    }

    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, r->connection->log, 0,
                   "convotic gate handler");

    if (r != r->main) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "a subrequest to \"%V\", where \"convotic\" is on, "
                      "is refused", &r->uri);
        return NGX_HTTP_FORBIDDEN;
    }

    ctx = ngx_http_get_module_ctx(r, ngx_convotic_module);

    if (ctx == NULL) {
        ctx = ngx_convotic_gate_enter(r);
        if (ctx == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }

    switch (ctx->state) {

    case NGX_CONVOTIC_GATE_WAITING:
        return NGX_AGAIN;

    case NGX_CONVOTIC_GATE_PASSED:
        return ngx_convotic_gate_pass(r);

    case NGX_CONVOTIC_GATE_ANSWERED:
        return NGX_OK;

    default: /* NGX_CONVOTIC_GATE_CHECKING, NGX_CONVOTIC_GATE_CAME */
        return ngx_convotic_gate_run(r, ctx);
    }
}


static ngx_convotic_ctx_t *
ngx_convotic_gate_enter(ngx_http_request_t *r)
{
    ngx_convotic_ctx_t  *ctx;
    ngx_http_cleanup_t  *cln;

    ctx = ngx_convotic_ctx_create(r);
    cln = ngx_http_cleanup_add(r, 0);

    if (ctx == NULL || cln == NULL) {
        return NULL;
    }

    ctx->resume = ngx_convotic_gate_resume;

    cln->handler = ngx_convotic_gate_cleanup;
    cln->data = ctx;

    return ctx;
}


static ngx_int_t
ngx_convotic_gate_run(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_int_t                         rc;
    const ngx_convotic_gate_check_t  *check;

    for ( ;; ) {
        check = &ngx_convotic_gate_checks[ctx->check];

        if (check->name == NULL) {
            ctx->state = NGX_CONVOTIC_GATE_PASSED;
            ctx->content_handler = r->content_handler;
            r->content_handler = ngx_convotic_fill_handler;
            return ngx_convotic_gate_pass(r);
        }

        if (ctx->state == NGX_CONVOTIC_GATE_CAME) {
            ctx->state = NGX_CONVOTIC_GATE_CHECKING;
            rc = check->done(r, ctx);

        } else {
            rc = check->start(r, ctx);
        }

        ngx_log_debug2(NGX_LOG_DEBUG_HTTP, r->connection->log, 0,
                       "convotic gate %s: %i", check->name, rc);

        switch (rc) {

        case NGX_OK:
            ctx->check++;

            /* what one check has waited for is nothing to the next */

            ctx->waiter.woken = NGX_CONVOTIC_WOKEN_NOT;
            ctx->waiter.late = 0;
            ctx->waiter.turns = 0;
            ctx->waiter.until = 0;
            break;

        case NGX_AGAIN:
            ctx->state = NGX_CONVOTIC_GATE_WAITING;
            ctx->redis_start = ngx_current_msec;
            r->read_event_handler = ngx_http_test_reading;

            /* the client's departure may have been signalled before */

            if (r->connection->read->ready) {
                ngx_post_event(r->connection->read, &ngx_posted_events);
            }

            return NGX_AGAIN;

        case NGX_DONE:
            return ngx_convotic_gate_answer(r, ctx);

        default: /* NGX_ERROR */
            ngx_convotic_error_set(&ctx->answer,
                                   NGX_HTTP_INTERNAL_SERVER_ERROR);
            return ngx_convotic_gate_answer(r, ctx);
        }
    }
}


/*
 * "mirror" follows in this phase, and is welcome.  "try_files" would take the
 * client's own request, with whatever it says of workspaces, to a place that
 * no gate guards.
 */

static ngx_int_t
ngx_convotic_gate_pass(ngx_http_request_t *r)
{
    ngx_convotic_loc_conf_t  *conf;

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);

    return conf->try_files ? NGX_OK : NGX_DECLINED;
}


/* NGX_OK: the handlers that follow in this phase are not for refusals */

static ngx_int_t
ngx_convotic_gate_answer(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ctx->state = NGX_CONVOTIC_GATE_ANSWERED;

    ctx->content_handler = r->content_handler;
    r->content_handler = ctx->cache.refresh ? ngx_convotic_fill_behind_handler
                                            : ngx_convotic_send;
    return NGX_OK;
}


/* from an event of Redis's connection */

static void
ngx_convotic_gate_resume(ngx_convotic_ctx_t *ctx)
{
    ngx_connection_t    *c;
    ngx_http_request_t  *r;

    r = ctx->request;
    c = r->connection;

    ngx_http_set_log_request(c->log, r);

    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, c->log, 0, "convotic gate resume");

    if (ctx->waiter.woken == NGX_CONVOTIC_WOKEN_NOT) {
        ctx->redis_time += ngx_current_msec - ctx->redis_start;
        ctx->state = NGX_CONVOTIC_GATE_CAME;

    } else {

        /* who has waited for another request begins its check again */

        ctx->state = NGX_CONVOTIC_GATE_CHECKING;
    }

    r->read_event_handler = ngx_http_block_reading;
    r->write_event_handler(r);

    ngx_http_run_posted_requests(c);
}


/* the request ends: a reply that comes later is nobody's */

static void
ngx_convotic_gate_cleanup(void *data)
{
    ngx_uint_t           i;
    ngx_convotic_ctx_t  *ctx = data;

    ngx_convotic_auth_leave(ctx);

    for (i = 0; i < sizeof(ctx->slots) / sizeof(ctx->slots[0]); i++) {

        if (ctx->slots[i]) {
            ngx_convotic_redis_cancel(ctx->slots[i]);
            ctx->slots[i] = NULL;
        }
    }

    ngx_convotic_cache_leave(ctx->request, ctx);
    ngx_convotic_waiters_leave(ctx);
}
