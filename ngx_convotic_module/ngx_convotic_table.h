
/*
 * A table in shared memory: entries of one size, found by a digest.
 */


#ifndef _NGX_CONVOTIC_TABLE_H_INCLUDED_
#define _NGX_CONVOTIC_TABLE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


#define NGX_CONVOTIC_TABLE_NAME  32      /* bytes, evenly distributed */


/* in shared memory itself */

typedef struct {
    size_t         size;         /* of an entry, with its value */
    size_t         value;        /* bytes */
    ngx_uint_t     sets;
    u_char        *entries;
    ngx_atomic_t   used;         /* entries that are not empty */
    ngx_atomic_t   evicted;
} ngx_convotic_table_t;


/* takes at most so much memory of the pool; NGX_ERROR: there is too little */
ngx_int_t ngx_convotic_table_create(ngx_convotic_table_t *table,
    ngx_slab_pool_t *shpool, size_t memory, size_t value);

/*
 * A copy of the value, without a lock: whole, or NGX_DECLINED.  Entries of
 * another scope are not seen.
 */
ngx_int_t ngx_convotic_table_read(ngx_convotic_table_t *table,
    uint64_t scope, const u_char *name, void *value);

/*
 * Likewise, and where the value stands, for one who changes a word of it with
 * a compare-and-set.  The place may be another entry's at any time: the word
 * is to have something in it that no other entry's has.
 */
ngx_int_t ngx_convotic_table_find(ngx_convotic_table_t *table,
    uint64_t scope, const u_char *name, void *value, void **place);

/*
 * Writers have the mutex of the pool.  A new entry takes the place of the one
 * of its set that was not used for the longest time.
 */
void ngx_convotic_table_write_locked(ngx_convotic_table_t *table,
    uint64_t scope, const u_char *name, const void *value);
void ngx_convotic_table_remove_locked(ngx_convotic_table_t *table,
    uint64_t scope, const u_char *name);

/*
 * For those who write a value where it stands.  A place is that of an entry,
 * or NULL.  A new one is open; what it holds is another's, and is all to be
 * written.  While a place is open, nobody reads it.
 */
void *ngx_convotic_table_place_locked(ngx_convotic_table_t *table,
    uint64_t scope, const u_char *name);
void *ngx_convotic_table_create_locked(ngx_convotic_table_t *table,
    uint64_t scope, const u_char *name);
void ngx_convotic_table_open_locked(void *place);
void ngx_convotic_table_close_locked(void *place);

ngx_uint_t ngx_convotic_table_places(ngx_convotic_table_t *table);


#endif /* _NGX_CONVOTIC_TABLE_H_INCLUDED_ */
