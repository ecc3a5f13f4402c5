
/*
 * Owns the shared memory zone.  It is made when the configuration is read,
 * survives a reload with the same size, and is written to by every worker:
 * counters without a lock, a shard for each worker, so that two of them do
 * not fight for one line of the processor's cache; tables and what is known
 * of their coherence with the mutex of the slab pool.
 *
 * All memory is taken at the beginning, for nothing in the zone may be
 * refused later.  A worker can die between any two instructions and leaves
 * nothing behind that another would wait for or believe.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_zone.h"


/* to be raised with every change of what stands in the zone */
#define NGX_CONVOTIC_ZONE_LAYOUT  4

#define NGX_CONVOTIC_ZONE_SHARDS  32

/*
 * Shares of the zone's memory, in thirty-seconds.  What anybody can fill with
 * invented keys, refusals and look-ups, has tables of its own.
 */
#define NGX_CONVOTIC_ZONE_KEYS         14
#define NGX_CONVOTIC_ZONE_REFUSALS     4
#define NGX_CONVOTIC_ZONE_GENERATIONS  3
#define NGX_CONVOTIC_ZONE_LOOKUPS      1
#define NGX_CONVOTIC_ZONE_FETCHES      2
#define NGX_CONVOTIC_ZONE_LEASES       5
#define NGX_CONVOTIC_ZONE_ADDRESSES    1


typedef struct {
    ngx_atomic_t                counts[NGX_CONVOTIC_COUNTS];
    ngx_atomic_t                gauges[NGX_CONVOTIC_GAUGES];
    ngx_pid_t                   pid;         /* whose gauges they are */
    u_char                      padding[NGX_CPU_CACHE_LINE];
} ngx_convotic_zone_shard_t;


struct ngx_convotic_zone_shared_s {
    ngx_uint_t                  layout;
    ngx_uint_t                  size;
    ngx_convotic_zone_values_t  values;
    ngx_convotic_coherence_t    coherence;
    ngx_convotic_tables_t       tables;
    ngx_convotic_zone_time_t    times[NGX_CONVOTIC_TIMES];
    ngx_convotic_zone_shard_t   shards[NGX_CONVOTIC_ZONE_SHARDS];
};

typedef struct ngx_convotic_zone_shared_s  ngx_convotic_zone_shared_t;


static ngx_int_t ngx_convotic_zone_init(ngx_shm_zone_t *shm_zone, void *data);
static ngx_int_t ngx_convotic_zone_reuse(ngx_shm_zone_t *shm_zone);
static ngx_int_t ngx_convotic_zone_tables(ngx_convotic_zone_t *zone,
    ngx_convotic_zone_shared_t *shared, size_t size);
static ngx_convotic_zone_shard_t *ngx_convotic_zone_shard(
    ngx_convotic_zone_t *zone);


ngx_convotic_zone_t *
ngx_convotic_zone_create(ngx_conf_t *cf, size_t size,
    ngx_convotic_zone_values_t *values)
{
    ngx_shm_zone_t       *shm_zone;
    ngx_convotic_zone_t  *zone;

    static ngx_str_t  name = ngx_string("ngx_convotic");

    zone = ngx_pcalloc(cf->pool, sizeof(ngx_convotic_zone_t));
    if (zone == NULL) {
        return NULL;
    }

    zone->values = *values;

    shm_zone = ngx_shared_memory_add(cf, &name, size, &ngx_convotic_module);
    if (shm_zone == NULL) {
        return NULL;
    }

    shm_zone->init = ngx_convotic_zone_init;
    shm_zone->data = zone;

    return zone;
}


void
ngx_convotic_zone_lock(ngx_convotic_zone_t *zone)
{
    ngx_shmtx_lock(&zone->shpool->mutex);
}


ngx_uint_t
ngx_convotic_zone_trylock(ngx_convotic_zone_t *zone)
{
    return ngx_shmtx_trylock(&zone->shpool->mutex);
}


void
ngx_convotic_zone_unlock(ngx_convotic_zone_t *zone)
{
    ngx_shmtx_unlock(&zone->shpool->mutex);
}


void
ngx_convotic_zone_count(ngx_convotic_zone_t *zone, ngx_uint_t count)
{
    /* errors are shaped also where there is no gateway, and so no zone */

    if (zone) {
        (void) ngx_atomic_fetch_add(
                            &ngx_convotic_zone_shard(zone)->counts[count], 1);
    }
}


void
ngx_convotic_zone_gauge(ngx_convotic_zone_t *zone, ngx_convotic_gauge_e gauge,
    ngx_atomic_uint_t value)
{
    ngx_convotic_zone_shard_t  *shard;

    shard = ngx_convotic_zone_shard(zone);

    /* a worker that exits may have a successor in the same place */

    if (shard->pid == ngx_pid) {
        shard->gauges[gauge] = value;
    }
}


void
ngx_convotic_zone_start(ngx_convotic_zone_t *zone)
{
    ngx_uint_t                  i;
    ngx_convotic_zone_shard_t  *shard;

    shard = ngx_convotic_zone_shard(zone);

    shard->pid = ngx_pid;

    for (i = 0; i < NGX_CONVOTIC_GAUGES; i++) {
        shard->gauges[i] = 0;
    }
}


void
ngx_convotic_zone_time(ngx_convotic_zone_t *zone, ngx_convotic_time_e time,
    ngx_msec_t elapsed)
{
    ngx_uint_t                 i;
    ngx_convotic_zone_time_t  *t;

    static const ngx_msec_t  bounds[] = NGX_CONVOTIC_TIME_BOUNDS;

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
    ngx_uint_t         i;
    ngx_atomic_uint_t  sum;

    sum = 0;

    for (i = 0; i < NGX_CONVOTIC_ZONE_SHARDS; i++) {
        sum += zone->shared->shards[i].counts[count];
    }

    return sum;
}


ngx_atomic_uint_t
ngx_convotic_zone_gauge_value(ngx_convotic_zone_t *zone,
    ngx_convotic_gauge_e gauge)
{
    ngx_uint_t          i;
    ngx_core_conf_t    *ccf;
    ngx_atomic_uint_t   sum;

    /* there may have been more workers before a reload */

    ccf = (ngx_core_conf_t *) ngx_get_conf(ngx_cycle->conf_ctx,
                                           ngx_core_module);
    sum = 0;

    for (i = 0; i < NGX_CONVOTIC_ZONE_SHARDS; i++) {

        if ((ngx_int_t) i < ccf->worker_processes) {
            sum += zone->shared->shards[i].gauges[gauge];
        }
    }

    return sum;
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
        return ngx_convotic_zone_reuse(shm_zone);
    }

    shared = ngx_slab_calloc(zone->shpool,
                             sizeof(ngx_convotic_zone_shared_t));

    if (shared == NULL
        || ngx_convotic_zone_tables(zone, shared, shm_zone->shm.size)
           != NGX_OK)
    {
        ngx_log_error(NGX_LOG_EMERG, shm_zone->shm.log, 0,
                      "\"convotic_zone\" is too small");
        return NGX_ERROR;
    }

    shared->layout = NGX_CONVOTIC_ZONE_LAYOUT;
    shared->size = sizeof(ngx_convotic_zone_shared_t);
    shared->values = zone->values;

    /* entries of epoch 0 have never been written */

    shared->coherence.epoch = 1;

    zone->shared = shared;
    zone->coherence = &shared->coherence;
    zone->tables = &shared->tables;
    zone->shpool->data = shared;

    return NGX_OK;
}


static ngx_int_t
ngx_convotic_zone_reuse(ngx_shm_zone_t *shm_zone)
{
    ngx_convotic_zone_t         *zone;
    ngx_convotic_zone_shared_t  *shared;

    zone = shm_zone->data;
    shared = zone->shared;

    if (shared->layout != NGX_CONVOTIC_ZONE_LAYOUT
        || shared->size != sizeof(ngx_convotic_zone_shared_t)
        || ngx_memcmp(&shared->values, &zone->values,
                      sizeof(ngx_convotic_zone_values_t))
           != 0)
    {
        ngx_log_error(NGX_LOG_EMERG, shm_zone->shm.log, 0,
                      "the zone \"%V\" in memory is of another version of "
                      "the module: restart nginx, or give \"convotic_zone\" "
                      "another size", &shm_zone->shm.name);
        return NGX_ERROR;
    }

    zone->coherence = &shared->coherence;
    zone->tables = &shared->tables;

    return NGX_OK;
}


static ngx_int_t
ngx_convotic_zone_tables(ngx_convotic_zone_t *zone,
    ngx_convotic_zone_shared_t *shared, size_t size)
{
    ngx_uint_t  i;

    struct {
        ngx_convotic_table_t  *table;
        ngx_uint_t             share;
        size_t                 value;
    } t[] = {
        { &shared->tables.keys, NGX_CONVOTIC_ZONE_KEYS, zone->values.keys },
        { &shared->tables.refusals, NGX_CONVOTIC_ZONE_REFUSALS,
          zone->values.refusals },
        { &shared->tables.generations, NGX_CONVOTIC_ZONE_GENERATIONS,
          zone->values.generations },
        { &shared->tables.lookups, NGX_CONVOTIC_ZONE_LOOKUPS,
          zone->values.flights },
        { &shared->tables.fetches, NGX_CONVOTIC_ZONE_FETCHES,
          zone->values.flights },
        { &shared->tables.leases, NGX_CONVOTIC_ZONE_LEASES,
          zone->values.leases },
        { &shared->tables.addresses, NGX_CONVOTIC_ZONE_ADDRESSES,
          zone->values.addresses }
    };

    for (i = 0; i < sizeof(t) / sizeof(t[0]); i++) {

        if (ngx_convotic_table_create(t[i].table, zone->shpool,
                                      size / 32 * t[i].share, t[i].value)
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_convotic_zone_shard_t *
ngx_convotic_zone_shard(ngx_convotic_zone_t *zone)
{
    return &zone->shared->shards[ngx_worker % NGX_CONVOTIC_ZONE_SHARDS];
}
