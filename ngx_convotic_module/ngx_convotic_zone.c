
/*
 * Owns the shared memory zone.  It is made when the configuration is read,
 * survives a reload with the same size, and is written to by every worker.
 * Counters are atomic, need no lock, and are never reset: a worker can die
 * between any two instructions and leaves nothing half-written.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_zone.h"


/* to be raised with every change of what stands in the zone */
#define NGX_CONVOTIC_ZONE_LAYOUT  1


typedef struct {
    ngx_uint_t                  layout;
    ngx_uint_t                  size;
    ngx_atomic_t                counts[NGX_CONVOTIC_COUNTS];
    ngx_convotic_zone_time_t    times[NGX_CONVOTIC_TIMES];
} ngx_convotic_zone_shared_t;


struct ngx_convotic_zone_s {
    ngx_convotic_zone_shared_t  *shared;
    ngx_slab_pool_t             *shpool;
};


static ngx_int_t ngx_convotic_zone_init(ngx_shm_zone_t *shm_zone, void *data);


ngx_convotic_zone_t *
ngx_convotic_zone_create(ngx_conf_t *cf, size_t size)
{
    ngx_shm_zone_t       *shm_zone;
    ngx_convotic_zone_t  *zone;

    static ngx_str_t  name = ngx_string("ngx_convotic");

    zone = ngx_pcalloc(cf->pool, sizeof(ngx_convotic_zone_t));
    if (zone == NULL) {
        return NULL;
    }

    shm_zone = ngx_shared_memory_add(cf, &name, size, &ngx_convotic_module);
    if (shm_zone == NULL) {
        return NULL;
    }

    shm_zone->init = ngx_convotic_zone_init;
    shm_zone->data = zone;

    return zone;
}


void
ngx_convotic_zone_count(ngx_convotic_zone_t *zone, ngx_uint_t count)
{
    if (zone && zone->shared) {
        (void) ngx_atomic_fetch_add(&zone->shared->counts[count], 1);
    }
}


void
ngx_convotic_zone_time(ngx_convotic_zone_t *zone, ngx_convotic_time_e time,
    ngx_msec_t elapsed)
{
    ngx_uint_t                 i;
    ngx_convotic_zone_time_t  *t;

    static const ngx_msec_t  bounds[] = NGX_CONVOTIC_TIME_BOUNDS;

    if (zone == NULL || zone->shared == NULL) {
        return;
    }

    t = &zone->shared->times[time];

    for (i = 0; i < NGX_CONVOTIC_TIME_BUCKETS - 1; i++) {
        if (elapsed <= bounds[i]) {
            break;
        }
    }

    (void) ngx_atomic_fetch_add(&t->buckets[i], 1);
    (void) ngx_atomic_fetch_add(&t->sum, elapsed);
}


ngx_atomic_uint_t
ngx_convotic_zone_value(ngx_convotic_zone_t *zone, ngx_uint_t count)
{
    return zone->shared->counts[count];
}


ngx_convotic_zone_time_t *
ngx_convotic_zone_times(ngx_convotic_zone_t *zone, ngx_convotic_time_e time)
{
    return &zone->shared->times[time];
}


static ngx_int_t
ngx_convotic_zone_init(ngx_shm_zone_t *shm_zone, void *data)
{
    ngx_convotic_zone_t         *old = data;
    ngx_convotic_zone_t         *zone;
    ngx_convotic_zone_shared_t  *shared;

    zone = shm_zone->data;
    zone->shpool = (ngx_slab_pool_t *) shm_zone->shm.addr;

    if (old) {
        zone->shared = old->shared;

    } else if (shm_zone->shm.exists) {
        zone->shared = zone->shpool->data;
    }

    if (zone->shared) {

        if (zone->shared->layout == NGX_CONVOTIC_ZONE_LAYOUT
            && zone->shared->size == sizeof(ngx_convotic_zone_shared_t))
        {
            return NGX_OK;
        }

        ngx_log_error(NGX_LOG_EMERG, shm_zone->shm.log, 0,
                      "the zone \"%V\" in memory is of another version of "
                      "the module: restart nginx, or give \"convotic_zone\" "
                      "another size", &shm_zone->shm.name);
        return NGX_ERROR;
    }

    shared = ngx_slab_calloc(zone->shpool,
                             sizeof(ngx_convotic_zone_shared_t));
    if (shared == NULL) {
        ngx_log_error(NGX_LOG_EMERG, shm_zone->shm.log, 0,
                      "\"convotic_zone\" is too small");
        return NGX_ERROR;
    }

    shared->layout = NGX_CONVOTIC_ZONE_LAYOUT;
    shared->size = sizeof(ngx_convotic_zone_shared_t);

    zone->shared = shared;
    zone->shpool->data = shared;

    /* exhaustion is this module's to report */
    zone->shpool->log_nomem = 0;

    return NGX_OK;
}
