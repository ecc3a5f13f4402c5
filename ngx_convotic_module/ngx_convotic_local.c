
/*
 * Owns the table of a worker's bodies.  It is bounded in bytes; who was not
 * asked for longest goes first.  A body that is taken out while requests
 * still send it lives until the last of them has ended.
 *
 * No invalidation comes here: whoever takes a body compares its generation
 * with the current one.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_zone.h"
#include "ngx_convotic_body.h"
#include "ngx_convotic_local.h"


/* bytes of the level for each place of the table */
#define NGX_CONVOTIC_LOCAL_PER_BUCKET  2048

/* a body that takes more of the level than one part of so many is not kept */
#define NGX_CONVOTIC_LOCAL_PARTS       4


struct ngx_convotic_local_s {
    size_t                size;
    size_t                used;
    ngx_uint_t            bodies;
    ngx_uint_t            mask;
    ngx_convotic_body_t **buckets;
    ngx_queue_t           queue;     /* the latest used first */
};


static void ngx_convotic_local_remove(ngx_convotic_local_t *local,
    ngx_convotic_body_t *body);
static void ngx_convotic_local_cleanup(void *data);


ngx_convotic_local_t *
ngx_convotic_local_create(ngx_pool_t *pool, size_t size)
{
    ngx_uint_t             n;
    ngx_pool_cleanup_t    *cln;
    ngx_convotic_local_t  *local;

    cln = ngx_pool_cleanup_add(pool, sizeof(ngx_convotic_local_t));
    if (cln == NULL) {
        return NULL;
    }

    local = cln->data;
    ngx_memzero(local, sizeof(ngx_convotic_local_t));

    for (n = 64; n < size / NGX_CONVOTIC_LOCAL_PER_BUCKET; n *= 2) {
        /* void */
    }

    local->size = size;
    local->mask = n - 1;
    local->buckets = ngx_pcalloc(pool, n * sizeof(ngx_convotic_body_t *));

    if (local->buckets == NULL) {
        return NULL;
    }

    ngx_queue_init(&local->queue);

    cln->handler = ngx_convotic_local_cleanup;

    return local;
}


ngx_convotic_body_t *
ngx_convotic_local_lookup(ngx_convotic_local_t *local,
    ngx_convotic_ctx_t *ctx)
{
    ngx_convotic_body_t  *body;

    body = local->buckets[ctx->cache.hash & local->mask];

    for ( /* void */ ; body; body = body->next) {

        if (body->hash == ctx->cache.hash
            && ngx_convotic_body_is_for(body, ctx))
        {
            ngx_queue_remove(&body->queue);
            ngx_queue_insert_head(&local->queue, &body->queue);

            return body;
        }
    }

    return NULL;
}


void
ngx_convotic_local_store(ngx_convotic_local_t *local,
    ngx_convotic_zone_t *zone, ngx_convotic_ctx_t *ctx,
    ngx_convotic_body_t *body)
{
    ngx_queue_t           *q;
    ngx_convotic_body_t   *old, **bucket;

    if (body->listed) {
        return;
    }

    old = ngx_convotic_local_lookup(local, ctx);

    if (old) {
        ngx_convotic_local_remove(local, old);
    }

    if (body->size <= local->size / NGX_CONVOTIC_LOCAL_PARTS) {

        while (local->used + body->size > local->size) {
            q = ngx_queue_last(&local->queue);

            ngx_convotic_local_remove(local,
                              ngx_queue_data(q, ngx_convotic_body_t, queue));
            ngx_convotic_zone_count(zone, NGX_CONVOTIC_COUNT_LOCAL_EVICTED);
        }

        bucket = &local->buckets[ctx->cache.hash & local->mask];

        body->hash = ctx->cache.hash;
        body->listed = 1;
        body->next = *bucket;
        *bucket = body;

        ngx_queue_insert_head(&local->queue, &body->queue);
        ngx_convotic_body_hold(body);

        local->used += body->size;
        local->bodies++;

        ngx_convotic_zone_count(zone, NGX_CONVOTIC_COUNT_LOCAL_STORED);
    }

    ngx_convotic_zone_gauge(zone, NGX_CONVOTIC_GAUGE_LOCAL_BYTES,
                            local->used);
    ngx_convotic_zone_gauge(zone, NGX_CONVOTIC_GAUGE_LOCAL_BODIES,
                            local->bodies);
}


uint32_t
ngx_convotic_local_hash(ngx_convotic_ctx_t *ctx)
{
    uint32_t  hash, workspace;

    hash = ngx_murmur_hash2(ctx->query.data, ctx->query.len);

    ngx_memcpy(&workspace, ctx->record.workspace_digest, sizeof(uint32_t));

    return hash ^ workspace;
}


static void
ngx_convotic_local_remove(ngx_convotic_local_t *local,
    ngx_convotic_body_t *body)
{
    ngx_convotic_body_t  **p;

    p = &local->buckets[body->hash & local->mask];

    while (*p != body) {
        p = &(*p)->next;
    }

    *p = body->next;

    ngx_queue_remove(&body->queue);

    body->listed = 0;
    local->used -= body->size;
    local->bodies--;

    ngx_convotic_body_release(body);
}


static void
ngx_convotic_local_cleanup(void *data)
{
    ngx_queue_t           *q;
    ngx_convotic_local_t  *local = data;

    while (!ngx_queue_empty(&local->queue)) {
        q = ngx_queue_head(&local->queue);

        ngx_convotic_local_remove(local,
                              ngx_queue_data(q, ngx_convotic_body_t, queue));
    }
}
