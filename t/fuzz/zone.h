
/*
 * In place of the zone: one process, and memory that is there already.
 */


#ifndef _FUZZ_ZONE_H_INCLUDED_
#define _FUZZ_ZONE_H_INCLUDED_


#include "fuzz.h"

#include "ngx_convotic_conf.h"
#include "ngx_convotic_zone.h"


typedef struct {
    ngx_convotic_zone_t       zone;
    ngx_convotic_tables_t     tables;
    ngx_convotic_coherence_t  coherence;
} fuzz_zone_t;


/* empty, as after a start, and without tables */
void fuzz_zone_start(fuzz_zone_t *zone);

/* one of its tables, an empty one, in so many bytes of memory */
void fuzz_zone_table(ngx_convotic_table_t *table, u_char *memory, size_t size,
    size_t value);


#endif /* _FUZZ_ZONE_H_INCLUDED_ */
