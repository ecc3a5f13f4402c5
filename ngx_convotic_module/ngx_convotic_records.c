
/*
 * Owns the entries of keys, of refused keys and of generations, and the
 * question whether one may still be believed.
 *
 * It may as long as four things hold: it is of the current epoch, tracking
 * has not told of a change, it is younger than its longest age, and the
 * server that it was read from is the one that is tracked; if the last fails,
 * or tracking is not confirmed, it may for one second.  Tracking is an
 * accelerator, age is the guarantee.
 *
 * An answer that was under way while its subject changed must not be stored:
 * an invalidation leaves a trace in a counter of its stripe, and what was
 * asked before that has moved is dropped.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_zone.h"
#include "ngx_convotic_records.h"


/* a stamp of the holder's that is older says nothing */
#define NGX_CONVOTIC_RECORDS_STAMP    2000     /* ms */

/* how long a refusal stands where it is not worth another look-up */
#define NGX_CONVOTIC_RECORDS_REFUSED  60000    /* ms */


/* the beginning of every value */

typedef struct {
    ngx_msec_t                 asked;
    ngx_atomic_uint_t          epoch;
    ngx_atomic_uint_t          run_id;
    ngx_uint_t                 invalid;
} ngx_convotic_records_head_t;


typedef struct {
    ngx_convotic_records_head_t  head;
    ngx_convotic_record_t        record;
} ngx_convotic_records_key_t;


typedef struct {
    ngx_convotic_records_head_t  head;
    ngx_convotic_generation_t    generation;
} ngx_convotic_records_generation_t;


static ngx_uint_t ngx_convotic_records_fresh(ngx_convotic_zone_t *zone,
    ngx_convotic_records_head_t *head, ngx_msec_t age);
static ngx_uint_t ngx_convotic_records_aged(ngx_convotic_zone_t *zone,
    ngx_convotic_records_head_t *head, ngx_msec_t age);
static ngx_uint_t ngx_convotic_records_younger(ngx_msec_t since,
    ngx_msec_t age);
static void ngx_convotic_records_store(ngx_convotic_zone_t *zone,
    ngx_convotic_table_t *table, ngx_convotic_table_t *other,
    const u_char *digest, ngx_convotic_mark_t *mark, ngx_str_t *run_id,
    ngx_convotic_records_head_t *head);
static void ngx_convotic_records_invalidate_locked(ngx_convotic_zone_t *zone,
    ngx_convotic_table_t *table, const u_char *digest,
    ngx_convotic_records_head_t *head);
static ngx_atomic_t *ngx_convotic_records_stripe(ngx_convotic_zone_t *zone,
    const u_char *digest);


void
ngx_convotic_records_values(ngx_convotic_zone_values_t *values)
{
    values->keys = sizeof(ngx_convotic_records_key_t);
    values->refusals = sizeof(ngx_convotic_records_head_t);
    values->generations = sizeof(ngx_convotic_records_generation_t);
}


void
ngx_convotic_records_mark(ngx_convotic_zone_t *zone, const u_char *digest,
    ngx_convotic_mark_t *mark)
{
    mark->time = ngx_current_msec;
    mark->epoch = zone->coherence->epoch;
    mark->changes = *ngx_convotic_records_stripe(zone, digest);
}


ngx_convotic_records_e
ngx_convotic_records_key_lookup(ngx_convotic_zone_t *zone,
    const u_char *digest, ngx_convotic_records_ages_t *ages,
    ngx_convotic_record_t *record)
{
    ngx_convotic_records_e       found;
    ngx_convotic_records_key_t   key;
    ngx_convotic_records_head_t  refusal;

    found = NGX_CONVOTIC_RECORDS_NONE;

    if (ngx_convotic_table_read(&zone->tables->keys, zone->scope, digest,
                                &key)
        == NGX_OK)
    {
        if (ngx_convotic_records_fresh(zone, &key.head, ages->valid)) {
            found = NGX_CONVOTIC_RECORDS_FRESH;

        } else if (ngx_convotic_records_aged(zone, &key.head, ages->stale)) {
            found = NGX_CONVOTIC_RECORDS_AGED;
        }

        /* what is old and over is of no use, but it may have been renewed */

        if (found != NGX_CONVOTIC_RECORDS_NONE
            && key.record.expires && key.record.expires <= ngx_time())
        {
            found = (found == NGX_CONVOTIC_RECORDS_FRESH)
                    ? NGX_CONVOTIC_RECORDS_DENIED : NGX_CONVOTIC_RECORDS_NONE;
        }

        if (found == NGX_CONVOTIC_RECORDS_DENIED) {
            return found;
        }

        if (found != NGX_CONVOTIC_RECORDS_NONE) {
            *record = key.record;
        }

        if (found == NGX_CONVOTIC_RECORDS_FRESH) {
            return found;
        }
    }

    if (ages->invalid
        && ngx_convotic_table_read(&zone->tables->refusals, zone->scope,
                                   digest, &refusal)
           == NGX_OK
        && ngx_convotic_records_fresh(zone, &refusal, ages->invalid))
    {
        return NGX_CONVOTIC_RECORDS_DENIED;
    }

    return found;
}


void
ngx_convotic_records_key_store(ngx_convotic_zone_t *zone,
    const u_char *digest, ngx_convotic_mark_t *mark, ngx_str_t *run_id,
    ngx_convotic_record_t *record)
{
    ngx_convotic_records_key_t   key;
    ngx_convotic_records_head_t  refusal;

    if (record) {
        ngx_memzero(&key, sizeof(ngx_convotic_records_key_t));
        key.record = *record;

        ngx_convotic_records_store(zone, &zone->tables->keys,
                                   &zone->tables->refusals, digest, mark,
                                   run_id, &key.head);
        return;
    }

    ngx_memzero(&refusal, sizeof(ngx_convotic_records_head_t));

    ngx_convotic_records_store(zone, &zone->tables->refusals,
                               &zone->tables->keys, digest, mark, run_id,
                               &refusal);
}


ngx_uint_t
ngx_convotic_records_key_known(ngx_convotic_zone_t *zone,
    const u_char *digest)
{
    ngx_convotic_records_key_t  key;

    return ngx_convotic_table_read(&zone->tables->keys, zone->scope, digest,
                                   &key)
           == NGX_OK;
}


ngx_uint_t
ngx_convotic_records_key_refused(ngx_convotic_zone_t *zone,
    const u_char *digest)
{
    ngx_convotic_records_head_t  refusal;

    return ngx_convotic_table_read(&zone->tables->refusals, zone->scope,
                                   digest, &refusal)
           == NGX_OK
           && ngx_convotic_records_fresh(zone, &refusal,
                                         NGX_CONVOTIC_RECORDS_REFUSED);
}


ngx_convotic_records_e
ngx_convotic_records_generation_lookup(ngx_convotic_zone_t *zone,
    const u_char *digest, ngx_convotic_records_ages_t *ages,
    ngx_convotic_generation_t *generation)
{
    ngx_convotic_records_generation_t  entry;

    if (ngx_convotic_table_read(&zone->tables->generations, zone->scope,
                                digest, &entry)
        != NGX_OK)
    {
        return NGX_CONVOTIC_RECORDS_NONE;
    }

    if (ngx_convotic_records_fresh(zone, &entry.head, ages->valid)) {
        *generation = entry.generation;
        return NGX_CONVOTIC_RECORDS_FRESH;
    }

    if (ngx_convotic_records_aged(zone, &entry.head, ages->stale)) {
        *generation = entry.generation;
        return NGX_CONVOTIC_RECORDS_AGED;
    }

    return NGX_CONVOTIC_RECORDS_NONE;
}


void
ngx_convotic_records_generation_store(ngx_convotic_zone_t *zone,
    const u_char *digest, ngx_convotic_mark_t *mark,
    ngx_convotic_generation_t *generation)
{
    ngx_str_t                          run_id;
    ngx_convotic_records_generation_t  entry;

    ngx_memzero(&entry, sizeof(ngx_convotic_records_generation_t));
    entry.generation = *generation;

    run_id.data = generation->run_id;
    run_id.len = generation->run_id_len;

    ngx_convotic_records_store(zone, &zone->tables->generations, NULL, digest,
                               mark, &run_id, &entry.head);
}


void
ngx_convotic_records_invalidate_key(ngx_convotic_zone_t *zone,
    const u_char *digest)
{
    ngx_convotic_records_key_t   key;
    ngx_convotic_records_head_t  refusal;

    ngx_convotic_zone_lock(zone);

    (*ngx_convotic_records_stripe(zone, digest))++;

    ngx_convotic_records_invalidate_locked(zone, &zone->tables->keys, digest,
                                           &key.head);
    ngx_convotic_records_invalidate_locked(zone, &zone->tables->refusals,
                                           digest, &refusal);
    ngx_convotic_zone_unlock(zone);
}


void
ngx_convotic_records_invalidate_generation(ngx_convotic_zone_t *zone,
    const u_char *digest)
{
    ngx_convotic_records_generation_t  entry;

    ngx_convotic_zone_lock(zone);

    (*ngx_convotic_records_stripe(zone, digest))++;

    ngx_convotic_records_invalidate_locked(zone, &zone->tables->generations,
                                           digest, &entry.head);
    ngx_convotic_zone_unlock(zone);
}


/* an answer that is under way is of an older epoch as well */

void
ngx_convotic_records_flush(ngx_convotic_zone_t *zone)
{
    ngx_convotic_zone_lock(zone);

    zone->coherence->flushed = zone->coherence->epoch + 1;
    zone->coherence->epoch = zone->coherence->flushed;

    ngx_convotic_zone_unlock(zone);
}


ngx_atomic_uint_t
ngx_convotic_records_run_id(ngx_convotic_zone_t *zone, ngx_str_t *run_id)
{
    size_t             i;
    ngx_atomic_uint_t  hash;

    hash = 0;

    for (i = 0; i < run_id->len; i++) {
        hash = hash * 31 + run_id->data[i];
    }

    /* who tracks another prefix or database of the server tells of others */

    return hash ^ zone->scope;
}


ngx_uint_t
ngx_convotic_records_tracked(ngx_convotic_zone_t *zone)
{
    ngx_atomic_uint_t  stamp;

    stamp = zone->coherence->stamp;

    return stamp
           && ngx_convotic_records_younger(stamp, NGX_CONVOTIC_RECORDS_STAMP);
}


static ngx_uint_t
ngx_convotic_records_fresh(ngx_convotic_zone_t *zone,
    ngx_convotic_records_head_t *head, ngx_msec_t age)
{
    if (head->run_id != zone->coherence->run_id
        || !ngx_convotic_records_tracked(zone))
    {
        age = ngx_min(age, NGX_CONVOTIC_RECORDS_UNTRACKED);
    }

    /* the epoch last: a stamp belongs to the one that began before it */

    __atomic_thread_fence(__ATOMIC_ACQUIRE);

    return !head->invalid && head->epoch == zone->coherence->epoch
           && ngx_convotic_records_younger(head->asked, age);
}


static ngx_uint_t
ngx_convotic_records_aged(ngx_convotic_zone_t *zone,
    ngx_convotic_records_head_t *head, ngx_msec_t age)
{
    return !head->invalid
           && head->epoch >= zone->coherence->flushed
           && ngx_convotic_records_younger(head->asked, age);
}


/* another process may be a little ahead in time */

static ngx_uint_t
ngx_convotic_records_younger(ngx_msec_t since, ngx_msec_t age)
{
    return age
           && (ngx_msec_int_t) (ngx_current_msec - since)
              < (ngx_msec_int_t) age;
}


static void
ngx_convotic_records_store(ngx_convotic_zone_t *zone,
    ngx_convotic_table_t *table, ngx_convotic_table_t *other,
    const u_char *digest, ngx_convotic_mark_t *mark, ngx_str_t *run_id,
    ngx_convotic_records_head_t *head)
{
    ngx_uint_t  changed;

    head->asked = mark->time;
    head->epoch = mark->epoch;
    head->run_id = ngx_convotic_records_run_id(zone, run_id);
    head->invalid = 0;

    ngx_convotic_zone_lock(zone);

    changed = (*ngx_convotic_records_stripe(zone, digest) != mark->changes);

    /* the opposite was true once, and is not to be used in any case */

    if (other) {
        ngx_convotic_table_remove_locked(other, zone->scope, digest);
    }

    if (!changed) {
        ngx_convotic_table_write_locked(table, zone->scope, digest, head);
    }

    ngx_convotic_zone_unlock(zone);

    if (changed) {
        ngx_convotic_zone_count(zone, NGX_CONVOTIC_COUNT_RACES);
    }
}


/* head: room for a value of the table */

static void
ngx_convotic_records_invalidate_locked(ngx_convotic_zone_t *zone,
    ngx_convotic_table_t *table, const u_char *digest,
    ngx_convotic_records_head_t *head)
{
    if (ngx_convotic_table_read(table, zone->scope, digest, head) == NGX_OK) {
        head->invalid = 1;
        ngx_convotic_table_write_locked(table, zone->scope, digest, head);
    }
}


static ngx_atomic_t *
ngx_convotic_records_stripe(ngx_convotic_zone_t *zone, const u_char *digest)
{
    return &zone->coherence->stripes[digest[NGX_CONVOTIC_TABLE_NAME - 1]];
}
