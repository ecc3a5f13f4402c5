
/*
 * Owns what stands in for the zone where a target has one.
 */


#include "zone.h"


void
fuzz_zone_start(fuzz_zone_t *zone)
{
    ngx_memzero(&zone->tables, sizeof(ngx_convotic_tables_t));
    ngx_memzero(&zone->coherence, sizeof(ngx_convotic_coherence_t));

    zone->zone.tables = &zone->tables;
    zone->zone.coherence = &zone->coherence;
}


void
fuzz_zone_table(ngx_convotic_table_t *table, u_char *memory, size_t size,
    size_t value)
{
    ngx_memzero(memory, size);

    if (ngx_convotic_table_create(table, (ngx_slab_pool_t *) memory, size,
                                  value)
        != NGX_OK)
    {
        fuzz_fail(__FILE__, __LINE__, "no memory for a table");
    }
}


/* the table's memory is given in place of a pool */

void *
ngx_slab_alloc(ngx_slab_pool_t *pool, size_t size)
{
    return pool;
}


void
ngx_convotic_zone_count(ngx_convotic_zone_t *zone, ngx_uint_t count)
{
}


void
ngx_convotic_zone_lock(ngx_convotic_zone_t *zone)
{
}


void
ngx_convotic_zone_unlock(ngx_convotic_zone_t *zone)
{
}
