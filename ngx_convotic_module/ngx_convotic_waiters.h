
/*
 * Requests that wait for what another one asked for.
 */


#ifndef _NGX_CONVOTIC_WAITERS_H_INCLUDED_
#define _NGX_CONVOTIC_WAITERS_H_INCLUDED_


#include "ngx_convotic_conf.h"


/* NULL: no memory */
ngx_convotic_waiters_t *ngx_convotic_waiters_create(ngx_conf_t *cf);

/* in a worker */
void ngx_convotic_waiters_start(ngx_convotic_waiters_t *waiters,
    ngx_cycle_t *cycle);

/* the request waits; for one thing at a time */
void ngx_convotic_waiters_add(ngx_queue_t *queue, ngx_convotic_ctx_t *ctx);

/* of a queue that is not empty */
ngx_convotic_ctx_t *ngx_convotic_waiters_first(ngx_queue_t *queue);

/*
 * It waits no longer: ctx->resume is called from an event of its own, unless
 * it leaves before.
 */
void ngx_convotic_waiters_wake(ngx_convotic_waiters_t *waiters,
    ngx_convotic_ctx_t *ctx);

/* out of whatever queue it stands in, if any */
void ngx_convotic_waiters_leave(ngx_convotic_ctx_t *ctx);


#endif /* _NGX_CONVOTIC_WAITERS_H_INCLUDED_ */
