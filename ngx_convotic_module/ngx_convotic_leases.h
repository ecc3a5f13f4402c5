
/*
 * The allowance of keys on this node: leased from Redis, spent from the zone.
 */


#ifndef _NGX_CONVOTIC_LEASES_H_INCLUDED_
#define _NGX_CONVOTIC_LEASES_H_INCLUDED_


#include "ngx_convotic_conf.h"
#include "ngx_convotic_resp.h"
#include "ngx_convotic_zone.h"


#define NGX_CONVOTIC_LEASES_WINDOW  60000    /* ms */

/* arguments of the script, and the bytes that their digits take at most */
#define NGX_CONVOTIC_LEASES_ARGC    8
#define NGX_CONVOTIC_LEASES_DIGITS  (NGX_CONVOTIC_LEASES_ARGC * NGX_INT64_LEN)

/* of an allowance, for a key that is let pass whatever it has used */
#define NGX_CONVOTIC_LEASES_ANY     NGX_MAX_UINT32_VALUE


typedef enum {
    NGX_CONVOTIC_LEASES_SPENT = 0,
    NGX_CONVOTIC_LEASES_LOW,         /* spent, and more should be asked for */
    NGX_CONVOTIC_LEASES_NONE,        /* Redis is to be asked first */
    NGX_CONVOTIC_LEASES_OVER         /* until the window ends */
} ngx_convotic_leases_e;


/* a question to Redis, and what the node tells it */

typedef struct {
    u_char               digest[NGX_CONVOTIC_DIGEST_LEN];    /* of the key */
    ngx_uint_t           limit;
    ngx_uint_t           want;
    uint64_t             window;     /* that the node counts in; 0: none */
    uint64_t             used;       /* in it, by all nodes */
    ngx_msec_t           rest;       /* of it; 0: it is over */
    uint64_t             debt;       /* admitted without a lease */
    ngx_msec_t           time;       /* when it was put */
    ngx_atomic_uint_t    epoch;
    ngx_uint_t           doubts;
} ngx_convotic_leases_ask_t;


/* the answer */

typedef struct {
    uint64_t             window;
    ngx_msec_t           rest;
    uint64_t             used;       /* by all nodes, this lease included */
    ngx_uint_t           granted;
    ngx_uint_t           kept;       /* what the node had counts on */
} ngx_convotic_leases_told_t;


/* for EVAL; one key, and the arguments of ngx_convotic_leases_arguments() */
extern ngx_str_t  ngx_convotic_leases_script;


size_t ngx_convotic_leases_value(void);

/*
 * One request of the key, whose digest this is, under a limit a minute.
 * Without a lock, a command or a wait; allowance is set unless NONE.
 */
ngx_convotic_leases_e ngx_convotic_leases_spend(ngx_convotic_zone_t *zone,
    const u_char *digest, ngx_uint_t limit,
    ngx_convotic_allowance_t *allowance);

/*
 * The right to ask.  NGX_OK: ask is set, and the answer, or that there is
 * none, must be given to _bank() or _fail(); NGX_AGAIN: there is something to
 * spend; NGX_BUSY: another worker asks; NGX_DECLINED: Redis did not answer
 * within the last second.
 */
ngx_int_t ngx_convotic_leases_claim(ngx_convotic_zone_t *zone,
    const u_char *digest, ngx_uint_t limit, ngx_convotic_leases_ask_t *ask);

/*
 * argv: of the script, _ARGC of them; p: room for _DIGITS bytes; run_id: of
 * the server, may be empty
 */
void ngx_convotic_leases_arguments(ngx_convotic_leases_ask_t *ask,
    ngx_str_t *run_id, u_char *p, ngx_str_t *argv);

/* NGX_ERROR: the reply is not one of the script's to this question */
ngx_int_t ngx_convotic_leases_parse(ngx_convotic_leases_ask_t *ask,
    ngx_convotic_resp_t *reply, ngx_convotic_leases_told_t *told);

/* returns whether it is news that nothing is left for others */
ngx_uint_t ngx_convotic_leases_bank(ngx_convotic_zone_t *zone,
    ngx_convotic_leases_ask_t *ask, ngx_convotic_leases_told_t *told);
void ngx_convotic_leases_fail(ngx_convotic_zone_t *zone,
    ngx_convotic_leases_ask_t *ask);

/*
 * One request that Redis could not be asked about, of at most share in this
 * node's window, or _ANY.  NGX_OK, with a debt for the next question;
 * NGX_DECLINED: the share is used up; NGX_ABORT: so is the limit, as Redis
 * told before.  allowance is set.
 */
ngx_int_t ngx_convotic_leases_borrow(ngx_convotic_zone_t *zone,
    const u_char *digest, ngx_uint_t limit, ngx_uint_t share,
    ngx_convotic_allowance_t *allowance);

/* the key's record has changed, perhaps with its window: Redis is asked next */
void ngx_convotic_leases_doubt(ngx_convotic_zone_t *zone,
    const u_char *digest);


#endif /* _NGX_CONVOTIC_LEASES_H_INCLUDED_ */
