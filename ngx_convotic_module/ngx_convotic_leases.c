
/*
 * Owns the counting of requests against a key's rate.  Redis counts what the
 * nodes have leased; a node spends its lease from the zone.
 *
 * The window is fixed: it begins with the first lease and lasts a minute by
 * the server's clock.  Its leases never add up to more than the limit.  A
 * node's first lease is 1, a later one at most what the node has spent in the
 * window, and at most a quarter of what is left: who asks little holds back
 * little.  A lease ends with the window, counted from before the question was
 * sent, by the clock that nobody can set.  A refusal does as well: from then
 * on until the window is over for certain, counted from after the answer came,
 * Redis is asked.
 *
 * A node tells with each question what it knows: the window, how much of it
 * was leased by all, and how long it lasts.  A server that has lost it takes
 * it up again, under another number, for what is leased from then on is to be
 * told from what was before: nodes that knew more add the difference only.
 *
 * What is admitted while Redis does not answer is a debt, which the server
 * adds to what is used.
 *
 * The word of an entry is changed by compare-and-set, without the mutex: in
 * it is what is left of the lease, and a number that no other entry has, so
 * that one that took its place meanwhile is never charged.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_resp.h"
#include "ngx_convotic_zone.h"
#include "ngx_convotic_leases.h"


/* the number is in the upper half of a word */
#define NGX_CONVOTIC_LEASES_LEFT     0x7fffffffULL
#define NGX_CONVOTIC_LEASES_DOUBT    0x80000000ULL

#define ngx_convotic_leases_left(word)                                        \
    ((ngx_uint_t) ((word) & NGX_CONVOTIC_LEASES_LEFT))

/* what the script can still write in digits */
#define NGX_CONVOTIC_LEASES_USED_MAX  9999999999999ULL

/* of a lease, the part with which more is asked for */
#define NGX_CONVOTIC_LEASES_AHEAD    8

/* the clock that is read may be behind, by a tick of the kernel's and more */
#define NGX_CONVOTIC_LEASES_TICK     10      /* ms */

/*
 * Another worker's question that is older is not waited for: two at a time do
 * no harm.  A server that gave no answer is asked again after that.
 */
#define NGX_CONVOTIC_LEASES_LOST     500     /* ms */
#define NGX_CONVOTIC_LEASES_RETRY    1000    /* ms */


typedef struct {
    ngx_atomic_t         word;
    uint64_t             window;     /* as Redis numbers it; 0: of our own */
    ngx_msec_t           deadline;   /* of the lease */
    ngx_msec_t           until;      /* the window is over for certain */
    uint64_t             used;       /* by all nodes, as Redis told */
    uint64_t             granted;    /* of that, to this node */
    uint64_t             debt;       /* not in used yet */
    uint64_t             borrowed;   /* in the window, told or not */
    ngx_msec_t           asked;      /* 0: nobody asks */
    uint64_t             asker;      /* the process */
    ngx_msec_t           told;       /* when Redis last answered */
    ngx_msec_t           retry;      /* Redis did not answer; 0: it did */
    ngx_atomic_uint_t    epoch;
    ngx_uint_t           doubts;     /* how often the record has changed */
    ngx_uint_t           low;        /* with less than that left, ask ahead */
} ngx_convotic_leases_entry_t;


static ngx_convotic_leases_entry_t *ngx_convotic_leases_open_locked(
    ngx_convotic_zone_t *zone, const u_char *digest);
static ngx_atomic_uint_t ngx_convotic_leases_word_locked(
    ngx_convotic_zone_t *zone);
static void ngx_convotic_leases_begin_locked(ngx_convotic_zone_t *zone,
    ngx_convotic_leases_entry_t *lease);
static uint64_t ngx_convotic_leases_admitted(
    ngx_convotic_leases_entry_t *lease);
static ngx_uint_t ngx_convotic_leases_is_over(
    ngx_convotic_leases_entry_t *lease, ngx_uint_t limit);
static ngx_uint_t ngx_convotic_leases_is_asking(
    ngx_convotic_leases_entry_t *lease);
static ngx_msec_t ngx_convotic_leases_rest(ngx_msec_t until);
static ngx_int_t ngx_convotic_leases_number(ngx_convotic_resp_t *reply,
    uint64_t *n);


/*
 * ARGV: the window's length in ms; the limit; what is wanted; the window that
 * the node counts in, 0 if Redis has given it none; what it knows to be used
 * in it; its rest in ms, 0 if it is over; the debt; the server's run_id, "-"
 * if it is not known.
 *
 * The value: the window's number, which is the time of its making in us; its
 * end in ms; used; the number of the window that was taken up in it, and how
 * much that was; the run_id.  "*" instead of a number is an order to forget
 * all others.  A value that is none of this, of whatever type, is as if there
 * was none.
 *
 * What counted in a window may be told more than once, by several nodes, and
 * is added once.  A window that another node opened before this one could
 * tell of the lost one takes that up as well, unless it was in its last
 * second, for then it may have ended while the question was under way.
 *
 * The answer: the window's number, its rest in ms, used, granted, and whether
 * what the node had counts on.
 */

ngx_str_t  ngx_convotic_leases_script = ngx_string(
    "local t = redis.call('TIME') "
    "local now = t[1] * 1000 + math.floor(t[2] / 1000) "
    "local fresh = t[1] .. string.format('%06d', t[2]) "
    "local window, limit, want = "
        "tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]) "
    "local known, told = ARGV[4], tonumber(ARGV[5]) "
    "local rest, debt = tonumber(ARGV[6]), tonumber(ARGV[7]) "
    "local server = ARGV[8] "
    "local id, last, used, was, carried, run "
    "local kept = true "
    "rest = math.min(rest, window) "

    "local v = redis.pcall('GET', KEYS[1]) "
    "if type(v) == 'string' then "
        "id, last, used, was, carried, run = string.match(v, "
            "'^(%d+) (%d+) (%d+) ([%d*]+) (%d+) ([%w-]+)$') "
    "elseif v and not string.find(v.err, 'WRONGTYPE') then "
        "return v "
    "end "

    "if id and (id == '0' or #id > 18 or #last > 13 or #used > 13 "
            "or #carried > 13) then "
        "id = nil "
    "end "

    "if id then "
        "last, used, carried = "
            "tonumber(last), tonumber(used), tonumber(carried) "

        /* the clock was set back */

        "if last - now > window then "
            "last = now + (known == id and rest > 0 and rest or window) "
        "end "

        "if last <= now then "
            "id = nil "

        /* the server was restarted, or is another, and may have lost some */

        "elseif server ~= '-' and run ~= server then "
            "if run ~= '-' then "
                "was, carried, id = id, used, fresh "
            "end "
            "run = server "
        "end "
    "end "

    "if not id then "
        "id, last, used, was, carried, run = "
            "fresh, now + window, 0, '0', 0, server "
        "kept = rest > 0 "
        "if kept then "
            "last = now + rest "
            "if known ~= '0' then "
                "used, was, carried = told, known, told "
            "end "
        "end "
    "elseif known == id then "
        "used = math.max(used, told) "
    "elseif known == '0' then "
        "kept = rest > 0 "
    "elseif was == '*' then "
        "kept = false "
    "elseif known == was and rest > 0 then "
        "if told > carried then "
            "used, carried = used + told - carried, told "
        "end "
    "elseif rest > 1000 then "
        "used, was, carried = used + told, known, told "
    "else "
        "kept = false "
    "end "

    "used = used + debt "

    "local granted = 0 "
    "if used < limit then "
        "granted = math.min(kept and want or 1, "
            "math.max(1, math.floor((limit - used) / 4))) "
    "end "
    "used = used + granted "

    "redis.call('SET', KEYS[1], table.concat("
        "{id, last, used, was, carried, run}, ' '), 'PX', last - now) "

    "return {id, last - now, used, granted, kept and 1 or 0}"
);


size_t
ngx_convotic_leases_value(void)
{
    return sizeof(ngx_convotic_leases_entry_t);
}


ngx_convotic_leases_e
ngx_convotic_leases_spend(ngx_convotic_zone_t *zone, const u_char *digest,
    ngx_uint_t limit, ngx_convotic_allowance_t *allowance)
{
    void                         *place;
    uint64_t                      admitted;
    ngx_atomic_uint_t             word;
    ngx_convotic_leases_entry_t   lease;

    for ( ;; ) {

        if (ngx_convotic_table_find(&zone->tables->leases, zone->scope,
                                    digest, &lease, &place)
            != NGX_OK)
        {
            return NGX_CONVOTIC_LEASES_NONE;
        }

        word = lease.word;
        allowance->rest = ngx_convotic_leases_rest(lease.until);

        if (allowance->rest == 0
            || ((word & NGX_CONVOTIC_LEASES_DOUBT)
                && ngx_convotic_leases_rest(lease.retry) == 0))
        {
            return NGX_CONVOTIC_LEASES_NONE;
        }

        admitted = ngx_convotic_leases_admitted(&lease);

        if (admitted >= limit) {

            /* over by a debt only: that is to be told, or to be let pass */

            if (!ngx_convotic_leases_is_over(&lease, limit)) {
                return NGX_CONVOTIC_LEASES_NONE;
            }

            /*
             * Redis knows when the window ends, and is asked once a tick when
             * that is near; and while nothing was told of changes the window
             * may have been replaced.
             */

            if (ngx_convotic_leases_rest(lease.retry) == 0
                && (lease.epoch != zone->coherence->epoch
                    || (lease.window
                        && ngx_convotic_leases_rest(lease.deadline)
                           <= NGX_CONVOTIC_LEASES_TICK
                        && lease.told != ngx_current_msec)))
            {
                return NGX_CONVOTIC_LEASES_NONE;
            }

            allowance->remaining = 0;
            return NGX_CONVOTIC_LEASES_OVER;
        }

        if (ngx_convotic_leases_left(word) == 0
            || ngx_convotic_leases_rest(lease.deadline) == 0)
        {
            return NGX_CONVOTIC_LEASES_NONE;
        }

        if (ngx_atomic_cmp_set(
                          &((ngx_convotic_leases_entry_t *) place)->word,
                          word, word - 1))
        {
            break;
        }
    }

    allowance->remaining = limit - admitted - 1;

    /* a server that may have lost the window is told of it */

    return ((ngx_convotic_leases_left(word) <= lease.low
             || lease.epoch != zone->coherence->epoch)
            && lease.asked == 0
            && ngx_convotic_leases_rest(lease.retry) == 0)
           ? NGX_CONVOTIC_LEASES_LOW : NGX_CONVOTIC_LEASES_SPENT;
}


ngx_int_t
ngx_convotic_leases_claim(ngx_convotic_zone_t *zone, const u_char *digest,
    ngx_uint_t limit, ngx_convotic_leases_ask_t *ask)
{
    ngx_int_t                     rc;
    ngx_uint_t                    left;
    ngx_msec_t                    now, rest;
    ngx_convotic_leases_entry_t  *lease;

    now = ngx_current_msec;

    ngx_convotic_zone_lock(zone);

    lease = ngx_convotic_table_place_locked(&zone->tables->leases,
                                            zone->scope, digest);

    if (lease == NULL) {
        lease = ngx_convotic_leases_open_locked(zone, digest);
        ngx_convotic_table_close_locked(lease);
    }

    /* a window of our own counts if anything was admitted in it */

    rest = ngx_convotic_leases_rest((lease->window || lease->borrowed == 0)
                                    ? lease->deadline : lease->until);

    /* it may be over, and is not to be taken up again */

    if (lease->window && rest <= NGX_CONVOTIC_LEASES_TICK) {
        rest = 0;
    }

    left = rest ? ngx_convotic_leases_left(lease->word) : 0;

    if (ngx_convotic_leases_is_asking(lease)) {
        rc = NGX_BUSY;
        goto done;
    }

    if (lease->retry
        && (ngx_msec_int_t) (lease->retry - now) > 0)
    {
        rc = NGX_DECLINED;
        goto done;
    }

    /* another worker's answer may just have come */

    if (left && left >= lease->low
        && ngx_convotic_leases_admitted(lease) < limit
        && lease->epoch == zone->coherence->epoch
        && !(lease->word & NGX_CONVOTIC_LEASES_DOUBT))
    {
        rc = NGX_AGAIN;
        goto done;
    }

    ngx_memcpy(ask->digest, digest, NGX_CONVOTIC_DIGEST_LEN);

    ask->limit = limit;
    ask->time = now;
    ask->epoch = zone->coherence->epoch;
    ask->doubts = lease->doubts;
    ask->rest = rest;
    ask->window = 0;
    ask->used = 0;
    ask->want = 1;
    ask->debt = ngx_convotic_leases_rest(lease->until) ? lease->debt : 0;

    if (rest) {
        ask->window = lease->window;
        ask->used = lease->used;
        ask->want = ngx_max(lease->granted - left, 1);
    }

    /* the last answer was lost, perhaps, with what was granted and told */

    if (lease->retry) {
        ask->want = 1;
        ask->debt = 0;
    }

    lease->asker = ngx_pid;
    lease->asked = now | 1;

    rc = NGX_OK;

done:

    ngx_convotic_zone_unlock(zone);

    return rc;
}


void
ngx_convotic_leases_arguments(ngx_convotic_leases_ask_t *ask,
    ngx_str_t *run_id, u_char *p, ngx_str_t *argv)
{
    ngx_uint_t  i;
    uint64_t    n[NGX_CONVOTIC_LEASES_ARGC - 1];

    n[0] = NGX_CONVOTIC_LEASES_WINDOW;
    n[1] = ask->limit;
    n[2] = ask->want;
    n[3] = ask->window;
    n[4] = ask->used;
    n[5] = ask->rest;
    n[6] = ask->debt;

    for (i = 0; i < NGX_CONVOTIC_LEASES_ARGC - 1; i++) {
        argv[i].data = p;
        p = ngx_sprintf(p, "%uL", n[i]);
        argv[i].len = p - argv[i].data;
    }

    if (run_id->len) {
        argv[i] = *run_id;

    } else {
        ngx_str_set(&argv[i], "-");
    }
}


ngx_int_t
ngx_convotic_leases_parse(ngx_convotic_leases_ask_t *ask,
    ngx_convotic_resp_t *reply, ngx_convotic_leases_told_t *told)
{
    uint64_t    n[5];
    ngx_uint_t  i;

    if (reply->type != NGX_CONVOTIC_RESP_ARRAY || reply->nelts != 5) {
        return NGX_ERROR;
    }

    for (i = 0; i < 5; i++) {
        if (ngx_convotic_leases_number(reply->elts[i], &n[i]) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (n[0] == 0 || n[1] == 0 || n[1] > NGX_CONVOTIC_LEASES_WINDOW
        || n[2] > NGX_CONVOTIC_LEASES_USED_MAX
        || n[3] > ask->want || n[3] > n[2]
        || (n[3] == 0 && n[2] < ask->limit))
    {
        return NGX_ERROR;
    }

    told->window = n[0];
    told->rest = n[1];
    told->used = n[2];
    told->granted = n[3];
    told->kept = (n[4] == 1);

    return NGX_OK;
}


ngx_uint_t
ngx_convotic_leases_bank(ngx_convotic_zone_t *zone,
    ngx_convotic_leases_ask_t *ask, ngx_convotic_leases_told_t *told)
{
    ngx_uint_t                    granted, over, late;
    ngx_convotic_leases_entry_t  *lease;

    /*
     * Of a window that was over before the answer came nothing is left, nor
     * is anything refused by it: the next one is asked for.
     */

    late = (ngx_convotic_leases_rest(ask->time + told->rest) == 0);

    ngx_convotic_zone_lock(zone);

    lease = ngx_convotic_leases_open_locked(zone, ask->digest);

    /* what is left of a lease goes on counting as long as its window */

    if (!told->kept || ngx_convotic_leases_rest(lease->until) == 0) {
        ngx_convotic_leases_begin_locked(zone, lease);

    } else {
        lease->debt -= ngx_min(lease->debt, ask->debt);
    }

    over = told->used >= ask->limit && !late
           && (lease->window != told->window || lease->used < ask->limit);

    /* two answers may come in another order than they were given */

    lease->used = (lease->window == told->window)
                  ? ngx_max(lease->used, told->used) : told->used;

    lease->window = told->window;
    lease->deadline = ask->time + told->rest;
    lease->until = ngx_current_msec + (late ? 0 : told->rest);
    lease->told = ngx_current_msec;
    lease->epoch = ask->epoch;
    lease->asked = 0;
    lease->retry = 0;

    /* as much as there is room for */

    granted = late ? 0
                   : ngx_min(told->granted,
                             NGX_CONVOTIC_LEASES_LEFT
                             - ngx_convotic_leases_left(lease->word));

    /* not behind a first lease: many keys send one request */

    lease->low = (lease->granted && told->used < ask->limit)
                 ? granted / NGX_CONVOTIC_LEASES_AHEAD + 1 : 0;

    lease->granted += granted;

    (void) ngx_atomic_fetch_add(&lease->word, granted);

    /* what has changed since it was asked is still doubted */

    if (lease->doubts == ask->doubts) {
        (void) __sync_fetch_and_and(&lease->word, ~NGX_CONVOTIC_LEASES_DOUBT);
    }

    ngx_convotic_table_close_locked(lease);

    ngx_convotic_zone_unlock(zone);

    return over;
}


void
ngx_convotic_leases_fail(ngx_convotic_zone_t *zone,
    ngx_convotic_leases_ask_t *ask)
{
    ngx_convotic_leases_entry_t  *lease;

    ngx_convotic_zone_lock(zone);

    lease = ngx_convotic_table_place_locked(&zone->tables->leases,
                                            zone->scope, ask->digest);
    if (lease) {
        lease->asked = 0;

        /* unless another worker has had an answer meanwhile */

        if ((ngx_msec_int_t) (lease->told - ask->time) <= 0) {
            lease->retry = (ngx_current_msec + NGX_CONVOTIC_LEASES_RETRY) | 1;
        }
    }

    ngx_convotic_zone_unlock(zone);
}


ngx_int_t
ngx_convotic_leases_borrow(ngx_convotic_zone_t *zone, const u_char *digest,
    ngx_uint_t limit, ngx_uint_t share, ngx_convotic_allowance_t *allowance)
{
    uint64_t                      admitted;
    ngx_int_t                     rc;
    ngx_convotic_leases_entry_t  *lease;

    ngx_convotic_zone_lock(zone);

    lease = ngx_convotic_leases_open_locked(zone, digest);

    if (ngx_convotic_leases_rest(lease->until) == 0) {
        ngx_convotic_leases_begin_locked(zone, lease);

        lease->window = 0;
        lease->used = 0;
        lease->deadline = ngx_current_msec;
        lease->until = ngx_current_msec + NGX_CONVOTIC_LEASES_WINDOW;
        lease->low = 0;
    }

    admitted = ngx_convotic_leases_admitted(lease);

    if (ngx_convotic_leases_is_over(lease, limit)) {
        rc = NGX_ABORT;

    } else if (share == NGX_CONVOTIC_LEASES_ANY
               || (lease->borrowed < share && admitted < limit))
    {
        lease->borrowed++;
        lease->debt++;
        admitted++;
        rc = NGX_OK;

    } else {
        rc = NGX_DECLINED;
    }

    allowance->rest = ngx_convotic_leases_rest(lease->until);
    allowance->remaining = (admitted < limit) ? limit - admitted : 0;

    if (share != NGX_CONVOTIC_LEASES_ANY) {
        allowance->remaining = ngx_min(allowance->remaining,
                                       share - ngx_min(lease->borrowed,
                                                       share));
    }

    ngx_convotic_table_close_locked(lease);

    ngx_convotic_zone_unlock(zone);

    return rc;
}


void
ngx_convotic_leases_doubt(ngx_convotic_zone_t *zone, const u_char *digest)
{
    ngx_convotic_leases_entry_t  *lease;

    ngx_convotic_zone_lock(zone);

    lease = ngx_convotic_table_place_locked(&zone->tables->leases,
                                            zone->scope, digest);
    if (lease) {
        lease->doubts++;
        (void) __sync_fetch_and_or(&lease->word, NGX_CONVOTIC_LEASES_DOUBT);
    }

    ngx_convotic_zone_unlock(zone);
}


/* to be closed; a new one is of no window */

static ngx_convotic_leases_entry_t *
ngx_convotic_leases_open_locked(ngx_convotic_zone_t *zone,
    const u_char *digest)
{
    ngx_atomic_uint_t             word;
    ngx_convotic_leases_entry_t  *lease;

    lease = ngx_convotic_table_place_locked(&zone->tables->leases,
                                            zone->scope, digest);
    if (lease) {
        ngx_convotic_table_open_locked(lease);
        return lease;
    }

    lease = ngx_convotic_table_create_locked(&zone->tables->leases,
                                             zone->scope, digest);
    word = ngx_convotic_leases_word_locked(zone);

    ngx_memzero((u_char *) lease + sizeof(ngx_atomic_t),
                sizeof(ngx_convotic_leases_entry_t) - sizeof(ngx_atomic_t));

    __atomic_store_n(&lease->word, word, __ATOMIC_RELEASE);

    lease->deadline = ngx_current_msec;
    lease->until = ngx_current_msec;
    lease->epoch = zone->coherence->epoch;

    return lease;
}


/* nothing left, and a number of its own */

static ngx_atomic_uint_t
ngx_convotic_leases_word_locked(ngx_convotic_zone_t *zone)
{
    return ++zone->tables->serial << 32;
}


/* nothing is left of the last window, but a doubt, if there is one */

static void
ngx_convotic_leases_begin_locked(ngx_convotic_zone_t *zone,
    ngx_convotic_leases_entry_t *lease)
{
    ngx_atomic_uint_t  word;

    word = ngx_convotic_leases_word_locked(zone)
           | (lease->word & NGX_CONVOTIC_LEASES_DOUBT);

    __atomic_store_n(&lease->word, word, __ATOMIC_RELEASE);

    lease->granted = 0;
    lease->debt = 0;
    lease->borrowed = 0;
}


/* by all nodes, or leased by the others; a lease that is over is spent */

static uint64_t
ngx_convotic_leases_admitted(ngx_convotic_leases_entry_t *lease)
{
    uint64_t  used, left;

    used = lease->used + lease->debt;
    left = ngx_convotic_leases_rest(lease->deadline)
           ? ngx_convotic_leases_left(lease->word) : 0;

    return used - ngx_min(used, left);
}


/* by what Redis told, whatever is owed */

static ngx_uint_t
ngx_convotic_leases_is_over(ngx_convotic_leases_entry_t *lease,
    ngx_uint_t limit)
{
    return ngx_convotic_leases_admitted(lease) >= limit + lease->debt;
}


/* a process that has died, or an answer that never came, is not waited for */

static ngx_uint_t
ngx_convotic_leases_is_asking(ngx_convotic_leases_entry_t *lease)
{
    ngx_pid_t  pid;

    if (lease->asked == 0
        || (ngx_msec_int_t) (ngx_current_msec - lease->asked)
           > NGX_CONVOTIC_LEASES_LOST)
    {
        return 0;
    }

    pid = (ngx_pid_t) lease->asker;

    return pid == ngx_pid || kill(pid, 0) == 0 || ngx_errno != NGX_ESRCH;
}


static ngx_msec_t
ngx_convotic_leases_rest(ngx_msec_t until)
{
    ngx_msec_int_t  rest;

    rest = (ngx_msec_int_t) (until - ngx_current_msec);

    return (rest > 0) ? (ngx_msec_t) rest : 0;
}


/* an integer, or digits: the number of a window is too large for Lua */

static ngx_int_t
ngx_convotic_leases_number(ngx_convotic_resp_t *reply, uint64_t *n)
{
    off_t  value;

    if (reply->type == NGX_CONVOTIC_RESP_INTEGER) {
        *n = reply->integer;

        return (reply->integer >= 0) ? NGX_OK : NGX_ERROR;
    }

    if (reply->type != NGX_CONVOTIC_RESP_STRING) {
        return NGX_ERROR;
    }

    value = ngx_atoof(reply->str.data, reply->str.len);
    *n = value;

    return (value != NGX_ERROR) ? NGX_OK : NGX_ERROR;
}
