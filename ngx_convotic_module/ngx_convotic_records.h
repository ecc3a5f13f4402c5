
/*
 * What Redis said of keys and generations, in the zone, for all workers.
 */


#ifndef _NGX_CONVOTIC_RECORDS_H_INCLUDED_
#define _NGX_CONVOTIC_RECORDS_H_INCLUDED_


#include "ngx_convotic_conf.h"
#include "ngx_convotic_zone.h"


/* of entries while nothing tells of changes, and so of all from elsewhere */
#define NGX_CONVOTIC_RECORDS_UNTRACKED  1000    /* ms */


typedef enum {
    NGX_CONVOTIC_RECORDS_NONE = 0,
    NGX_CONVOTIC_RECORDS_AGED,       /* to be used if Redis cannot say */
    NGX_CONVOTIC_RECORDS_DENIED,     /* of a key only */
    NGX_CONVOTIC_RECORDS_FRESH
} ngx_convotic_records_e;


/* the longest age of an entry, by what it is, in ms */

typedef struct {
    ngx_msec_t           valid;
    ngx_msec_t           invalid;
    ngx_msec_t           stale;
} ngx_convotic_records_ages_t;


/* for the sizes of the zone's tables */
void ngx_convotic_records_values(ngx_convotic_zone_values_t *values);

/* to be taken before the command is queued whose answer is to be stored */
void ngx_convotic_records_mark(ngx_convotic_zone_t *zone,
    const u_char *digest, ngx_convotic_mark_t *mark);

/* digest: of the key, as it stands in its name; record is set unless NONE */
ngx_convotic_records_e ngx_convotic_records_key_lookup(
    ngx_convotic_zone_t *zone, const u_char *digest,
    ngx_convotic_records_ages_t *ages, ngx_convotic_record_t *record);

/* record: NULL for a key that is refused; run_id: of the server that said so */
void ngx_convotic_records_key_store(ngx_convotic_zone_t *zone,
    const u_char *digest, ngx_convotic_mark_t *mark, ngx_str_t *run_id,
    ngx_convotic_record_t *record);

/* whether it was valid not long ago, whatever may be believed of it now */
ngx_uint_t ngx_convotic_records_key_known(ngx_convotic_zone_t *zone,
    const u_char *digest);

/* whether it was refused within a minute, and nothing has changed since */
ngx_uint_t ngx_convotic_records_key_refused(ngx_convotic_zone_t *zone,
    const u_char *digest);

/* digest: of the workspace's name */
ngx_convotic_records_e ngx_convotic_records_generation_lookup(
    ngx_convotic_zone_t *zone, const u_char *digest,
    ngx_convotic_records_ages_t *ages,
    ngx_convotic_generation_t *generation);
void ngx_convotic_records_generation_store(ngx_convotic_zone_t *zone,
    const u_char *digest, ngx_convotic_mark_t *mark,
    ngx_convotic_generation_t *generation);

/*
 * For the holder of tracking: what Redis told has changed.  An entry is then
 * no longer to be used at all, whether Redis answers or not.
 */
void ngx_convotic_records_invalidate_key(ngx_convotic_zone_t *zone,
    const u_char *digest);
void ngx_convotic_records_invalidate_generation(ngx_convotic_zone_t *zone,
    const u_char *digest);
void ngx_convotic_records_flush(ngx_convotic_zone_t *zone);

/* of the server, database and prefix, as it stands in coherence->run_id */
ngx_atomic_uint_t ngx_convotic_records_run_id(ngx_convotic_zone_t *zone,
    ngx_str_t *run_id);

/* whether changes are being told */
ngx_uint_t ngx_convotic_records_tracked(ngx_convotic_zone_t *zone);


#endif /* _NGX_CONVOTIC_RECORDS_H_INCLUDED_ */
