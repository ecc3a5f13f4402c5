
/*
 * Owns the waking of requests that waited for the same thing.  Who is woken
 * may end its request, and may wake or queue others, so nobody is resumed
 * from within the code that wakes; and a thousand of them do not keep the
 * worker from all else.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_waiters.h"


/* requests that are woken in one turn of the event loop */
#define NGX_CONVOTIC_WAITERS_BATCH  64


struct ngx_convotic_waiters_s {
    ngx_queue_t                 ready;
    ngx_event_t                 event;
};


static void ngx_convotic_waiters_handler(ngx_event_t *ev);


ngx_convotic_waiters_t *
ngx_convotic_waiters_create(ngx_conf_t *cf)
{
    ngx_convotic_waiters_t  *waiters;

    waiters = ngx_pcalloc(cf->pool, sizeof(ngx_convotic_waiters_t));
    if (waiters == NULL) {
        return NULL;
    }

    ngx_queue_init(&waiters->ready);

    return waiters;
}


void
ngx_convotic_waiters_start(ngx_convotic_waiters_t *waiters,
    ngx_cycle_t *cycle)
{
    waiters->event.handler = ngx_convotic_waiters_handler;
    waiters->event.data = waiters;
    waiters->event.log = cycle->log;
}


void
ngx_convotic_waiters_add(ngx_queue_t *queue, ngx_convotic_ctx_t *ctx)
{
    ngx_queue_insert_tail(queue, &ctx->queue);
}


ngx_convotic_ctx_t *
ngx_convotic_waiters_first(ngx_queue_t *queue)
{
    return ngx_queue_data(ngx_queue_head(queue), ngx_convotic_ctx_t, queue);
}


void
ngx_convotic_waiters_wake(ngx_convotic_waiters_t *waiters,
    ngx_convotic_ctx_t *ctx)
{
    ngx_queue_remove(&ctx->queue);
    ngx_queue_insert_tail(&waiters->ready, &ctx->queue);

    if (!waiters->event.posted) {
        ngx_post_event(&waiters->event, &ngx_posted_events);
    }
}


void
ngx_convotic_waiters_leave(ngx_convotic_ctx_t *ctx)
{
    if (ctx->queue.next) {
        ngx_queue_remove(&ctx->queue);
        ctx->queue.next = NULL;
    }
}


static void
ngx_convotic_waiters_handler(ngx_event_t *ev)
{
    ngx_uint_t               n;
    ngx_convotic_ctx_t      *ctx;
    ngx_convotic_waiters_t  *waiters;

    waiters = ev->data;

    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, ev->log, 0,
                   "convotic waiters handler");

    for (n = 0; n < NGX_CONVOTIC_WAITERS_BATCH; n++) {

        if (ngx_queue_empty(&waiters->ready)) {
            return;
        }

        ctx = ngx_convotic_waiters_first(&waiters->ready);

        ngx_convotic_waiters_leave(ctx);

        ctx->resume(ctx);
    }

    if (ngx_queue_empty(&waiters->ready)) {
        return;
    }

    /* not in this turn, even if one of them has woken others */

    if (ev->posted) {
        ngx_delete_posted_event(ev);
    }

    ngx_post_event(ev, &ngx_posted_next_events);
}
