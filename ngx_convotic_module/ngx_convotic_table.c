
/*
 * Owns the form of tables in shared memory, which is that of a processor's
 * cache: sets of a few entries, all of one size, allocated once.  Nothing is
 * linked and nothing is allocated later, so a writer that is killed between
 * any two stores leaves one entry behind that no reader believes, and
 * exhaustion is nothing but the loss of the oldest entry of a set.
 *
 * An entry has a sequence number, which is odd while it is being written.  A
 * reader copies and looks at the number again: it takes no lock and never
 * waits for a writer that has died.  Writers exclude each other by the mutex
 * of the slab pool, which nginx's master unlocks for a worker that has died.
 */


#include "ngx_convotic_table.h"


#define NGX_CONVOTIC_TABLE_WAYS   8

/* of a reader that meets a writer; then it does without */
#define NGX_CONVOTIC_TABLE_TRIES  16

/* how often the time of use is written, in ms: not at each reading */
#define NGX_CONVOTIC_TABLE_TOUCH  1000


typedef struct {
    ngx_atomic_t   sequence;
    ngx_atomic_t   touched;      /* ms; 0: empty */
    uint64_t       scope;
    u_char         name[NGX_CONVOTIC_TABLE_NAME];
} ngx_convotic_table_entry_t;


#define ngx_convotic_table_load(p)                                            \
    __atomic_load_n((p), __ATOMIC_ACQUIRE)

#define ngx_convotic_table_store(p, v)                                        \
    __atomic_store_n((p), (v), __ATOMIC_RELEASE)

#define ngx_convotic_table_value(e)                                           \
    ((u_char *) (e) + sizeof(ngx_convotic_table_entry_t))

#define ngx_convotic_table_entry(place)                                       \
    ((ngx_convotic_table_entry_t *)                                           \
        ((u_char *) (place) - sizeof(ngx_convotic_table_entry_t)))

#define ngx_convotic_table_next(table, e)                                     \
    ((ngx_convotic_table_entry_t *) ((u_char *) (e) + (table)->size))


static ngx_convotic_table_entry_t *ngx_convotic_table_set(
    ngx_convotic_table_t *table, const u_char *name);
static ngx_convotic_table_entry_t *ngx_convotic_table_find_locked(
    ngx_convotic_table_t *table, uint64_t scope, const u_char *name);
static ngx_convotic_table_entry_t *ngx_convotic_table_oldest_locked(
    ngx_convotic_table_t *table, const u_char *name);
static ngx_atomic_uint_t ngx_convotic_table_now(void);


ngx_int_t
ngx_convotic_table_create(ngx_convotic_table_t *table,
    ngx_slab_pool_t *shpool, size_t memory, size_t value)
{
    size_t  size;

    table->value = value;
    table->size = sizeof(ngx_convotic_table_entry_t)
                  + ngx_align(value, sizeof(uint64_t));
    table->sets = memory / (table->size * NGX_CONVOTIC_TABLE_WAYS);

    if (table->sets == 0) {
        return NGX_ERROR;
    }

    size = table->sets * table->size * NGX_CONVOTIC_TABLE_WAYS;

    table->entries = ngx_slab_alloc(shpool, size);
    if (table->entries == NULL) {
        return NGX_ERROR;
    }

    /* new shared memory is zeroed, and better left alone until it is used */

#if (NGX_DEBUG_MALLOC)
    ngx_memzero(table->entries, size);
#endif

    return NGX_OK;
}


ngx_int_t
ngx_convotic_table_read(ngx_convotic_table_t *table, uint64_t scope,
    const u_char *name, void *value)
{
    void  *place;

    return ngx_convotic_table_find(table, scope, name, value, &place);
}


ngx_int_t
ngx_convotic_table_find(ngx_convotic_table_t *table, uint64_t scope,
    const u_char *name, void *value, void **place)
{
    ngx_uint_t                   way, tries;
    ngx_atomic_uint_t            sequence, touched, now;
    ngx_convotic_table_entry_t  *e;

    e = ngx_convotic_table_set(table, name);

    for (way = 0; way < NGX_CONVOTIC_TABLE_WAYS; way++) {

        for (tries = 0; tries < NGX_CONVOTIC_TABLE_TRIES; tries++) {

            sequence = ngx_convotic_table_load(&e->sequence);

            if (sequence & 1) {
                ngx_cpu_pause();
                continue;
            }

            touched = e->touched;

            if (touched == 0 || e->scope != scope
                || ngx_memcmp(e->name, name, NGX_CONVOTIC_TABLE_NAME) != 0)
            {
                break;
            }

            ngx_memcpy(value, ngx_convotic_table_value(e), table->value);

            __atomic_thread_fence(__ATOMIC_ACQUIRE);

            if (ngx_convotic_table_load(&e->sequence) != sequence) {
                continue;
            }

            now = ngx_convotic_table_now();

            /* what has been removed meanwhile is not to come back */

            if (now - touched > NGX_CONVOTIC_TABLE_TOUCH) {
                (void) ngx_atomic_cmp_set(&e->touched, touched, now);
            }

            *place = ngx_convotic_table_value(e);

            return NGX_OK;
        }

        e = ngx_convotic_table_next(table, e);
    }

    return NGX_DECLINED;
}


void
ngx_convotic_table_write_locked(ngx_convotic_table_t *table, uint64_t scope,
    const u_char *name, const void *value)
{
    void  *place;

    place = ngx_convotic_table_place_locked(table, scope, name);

    if (place) {
        ngx_convotic_table_open_locked(place);

    } else {
        place = ngx_convotic_table_create_locked(table, scope, name);
    }

    ngx_memcpy(place, value, table->value);

    ngx_convotic_table_close_locked(place);
}


void *
ngx_convotic_table_place_locked(ngx_convotic_table_t *table, uint64_t scope,
    const u_char *name)
{
    ngx_convotic_table_entry_t  *e;

    e = ngx_convotic_table_find_locked(table, scope, name);

    return e ? ngx_convotic_table_value(e) : NULL;
}


void *
ngx_convotic_table_create_locked(ngx_convotic_table_t *table, uint64_t scope,
    const u_char *name)
{
    ngx_convotic_table_entry_t  *e;

    e = ngx_convotic_table_oldest_locked(table, name);

    ngx_convotic_table_open_locked(ngx_convotic_table_value(e));

    e->scope = scope;
    ngx_memcpy(e->name, name, NGX_CONVOTIC_TABLE_NAME);

    return ngx_convotic_table_value(e);
}


void
ngx_convotic_table_open_locked(void *place)
{
    ngx_convotic_table_entry_t  *e;

    e = ngx_convotic_table_entry(place);

    ngx_convotic_table_store(&e->sequence, e->sequence | 1);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);

    e->touched = ngx_convotic_table_now();
}


void
ngx_convotic_table_close_locked(void *place)
{
    ngx_convotic_table_entry_t  *e;

    e = ngx_convotic_table_entry(place);

    ngx_convotic_table_store(&e->sequence, e->sequence + 1);
}


void
ngx_convotic_table_remove_locked(ngx_convotic_table_t *table, uint64_t scope,
    const u_char *name)
{
    ngx_atomic_uint_t            sequence;
    ngx_convotic_table_entry_t  *e;

    e = ngx_convotic_table_find_locked(table, scope, name);

    if (e == NULL) {
        return;
    }

    sequence = e->sequence | 1;

    ngx_convotic_table_store(&e->sequence, sequence);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);

    e->touched = 0;

    ngx_convotic_table_store(&e->sequence, sequence + 1);

    table->used--;
}


ngx_uint_t
ngx_convotic_table_places(ngx_convotic_table_t *table)
{
    return table->sets * NGX_CONVOTIC_TABLE_WAYS;
}


/* the name's first bytes as a fraction of the number of sets */

static ngx_convotic_table_entry_t *
ngx_convotic_table_set(ngx_convotic_table_t *table, const u_char *name)
{
    uint32_t  n;

    ngx_memcpy(&n, name, sizeof(uint32_t));

    return (ngx_convotic_table_entry_t *)
               (table->entries + (((uint64_t) n * table->sets) >> 32)
                                 * NGX_CONVOTIC_TABLE_WAYS * table->size);
}


/* an odd number under the mutex is that of a writer who has died */

static ngx_convotic_table_entry_t *
ngx_convotic_table_find_locked(ngx_convotic_table_t *table, uint64_t scope,
    const u_char *name)
{
    ngx_uint_t                   way;
    ngx_convotic_table_entry_t  *e;

    e = ngx_convotic_table_set(table, name);

    for (way = 0; way < NGX_CONVOTIC_TABLE_WAYS; way++) {

        if ((e->sequence & 1) == 0 && e->touched && e->scope == scope
            && ngx_memcmp(e->name, name, NGX_CONVOTIC_TABLE_NAME) == 0)
        {
            return e;
        }

        e = ngx_convotic_table_next(table, e);
    }

    return NULL;
}


static ngx_convotic_table_entry_t *
ngx_convotic_table_oldest_locked(ngx_convotic_table_t *table,
    const u_char *name)
{
    ngx_uint_t                   way;
    ngx_convotic_table_entry_t  *e, *oldest;

    e = ngx_convotic_table_set(table, name);
    oldest = NULL;

    for (way = 0; way < NGX_CONVOTIC_TABLE_WAYS; way++) {

        if (e->sequence & 1) {
            return e;
        }

        if (e->touched == 0) {
            table->used++;
            return e;
        }

        if (oldest == NULL
            || (ngx_atomic_int_t) (e->touched - oldest->touched) < 0)
        {
            oldest = e;
        }

        e = ngx_convotic_table_next(table, e);
    }

    table->evicted++;

    return oldest;
}


/* never 0 */

static ngx_atomic_uint_t
ngx_convotic_table_now(void)
{
    return ngx_current_msec | 1;
}
