
/*
 * Nodes that share one key's rate, in a simulation: the module's own code of
 * leases and tables, one zone a node, and the script in a Lua of its own, all
 * by one clock that is set.  What is random comes from the seed.  A ledger
 * keeps what each window was in truth, and each step is compared with it.
 *
 * simulate [-v] KIND FIRST COUNT     trials of a kind, by seed; -v: each step
 * simulate -s KIND FIRST COUNT       the first that fails, made minimal
 * simulate one LIMIT                 one node, no faults: exactly the limit
 * simulate figures                   how many questions it takes
 * simulate same SOCKET SEED COUNT    each question is put to a Redis as well
 * simulate real SOCKET               a Redis by its own clock, short windows
 *
 * KIND is one of simulate_kinds[] below.  "ok" and figures, or what is wrong,
 * in one line; exit code 1 if anything is.
 *
 * Left out: a node's workers read the same clock, and there is one key.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_convotic_leases.h"
#include "simulate.h"


#define SIMULATE_NODES      100
#define SIMULATE_WORKERS    3
#define SIMULATE_WINDOWS    4096
#define SIMULATE_LOSSES     256
#define SIMULATE_ROUNDS     2000000      /* events of a trial, at most */

#define SIMULATE_START      100000000UL  /* ms, the nodes' clock */
#define SIMULATE_EPOCH      1750000000000UL
#define SIMULATE_TICK       10           /* ms, as in leases.c */
#define SIMULATE_POLL       2            /* ms, as in limit.c */

/* what may happen in a trial; bits */

#define SIMULATE_SLOW       0x0001       /* up to 3 s */
#define SIMULATE_LOST       0x0002       /* questions, answers */
#define SIMULATE_AWAY       0x0004
#define SIMULATE_LOCAL      0x0008       /* and requests are admitted then */
#define SIMULATE_DEATH      0x0010
#define SIMULATE_LIMITS     0x0020
#define SIMULATE_FORGET     0x0040
#define SIMULATE_RESTORE    0x0080
#define SIMULATE_STEP       0x0100
#define SIMULATE_RESET      0x0200
#define SIMULATE_JUNK       0x0400
#define SIMULATE_NOTHING    0x8000       /* but what tracking notices */

/* windows may be lost, or end early */
#define SIMULATE_LOSS       (SIMULATE_FORGET|SIMULATE_RESTORE|SIMULATE_STEP   \
                             |SIMULATE_RESET|SIMULATE_JUNK)


typedef enum {
    SIMULATE_REQUEST = 0,
    SIMULATE_NODE_DIES,
    SIMULATE_WORKER_DIES,
    SIMULATE_STORE_FORGETS,
    SIMULATE_STORE_RESTARTS,
    SIMULATE_STORE_IS_SAVED,
    SIMULATE_STORE_IS_RESTORED,
    SIMULATE_STORE_JUNK,
    SIMULATE_STORE_RESET,
    SIMULATE_STORE_AWAY,
    SIMULATE_CLOCK_STEPS,
    SIMULATE_LIMIT_CHANGES,
    SIMULATE_RECORD_CHANGES,
    SIMULATE_TRACKING_LOST,

    /* what follows of these */

    SIMULATE_QUESTION,
    SIMULATE_AGAIN,
    SIMULATE_ANSWER,
    SIMULATE_TIMEOUT,
    SIMULATE_LOOK
} simulate_what_e;


static const char  *simulate_names[] = {
    "request", "node dies", "worker dies", "store forgets the key",
    "store restarts, empty", "store is saved", "store is restored",
    "store holds junk", "reset", "store away", "clock steps",
    "limit becomes", "record changes", "tracking is lost",
    "question arrives", "question arrives again", "answer arrives",
    "no answer", "look"
};


typedef struct {
    const char  *name;
    ngx_uint_t   may;
} simulate_kind_t;


static simulate_kind_t  simulate_kinds[] = {
    { "calm",     0 },
    { "slow",     SIMULATE_SLOW },
    { "lost",     SIMULATE_LOST|SIMULATE_SLOW },
    { "away",     SIMULATE_AWAY|SIMULATE_LOCAL },
    { "late",     SIMULATE_AWAY|SIMULATE_LOCAL|SIMULATE_LOST },
    { "dying",    SIMULATE_DEATH|SIMULATE_SLOW },
    { "limits",   SIMULATE_LIMITS },
    { "forgets",  SIMULATE_FORGET },
    { "restored", SIMULATE_RESTORE },
    { "clock",    SIMULATE_STEP },
    { "reset",    SIMULATE_RESET|SIMULATE_JUNK },
    { "all",      0xffff & ~SIMULATE_RESET }
};


typedef struct {
    uint64_t             time;           /* ms */
    uint64_t             order;
    simulate_what_e      what;
    ngx_uint_t           node;
    ngx_uint_t           worker;
    int64_t              n;
    unsigned             off:1;          /* left out of a shrunken trial */
} simulate_event_t;


typedef struct {
    ngx_convotic_leases_ask_t   ask;
    ngx_convotic_leases_told_t  told;
    u_char                      run_id[17];
    ngx_pid_t                   pid;
    uint64_t                    sent;
    uint64_t                    ran;
    unsigned                    lost:1;  /* the answer */
    unsigned                    done:1;  /* for the node */
} simulate_question_t;


typedef struct {
    ngx_pid_t            pid;
    ngx_uint_t           waiters;
    unsigned             active:1;       /* it has a question */
    unsigned             remote:1;       /* which is another worker's */
    unsigned             look:1;         /* is due */
} simulate_worker_t;


typedef struct {
    ngx_convotic_zone_t         zone;
    ngx_convotic_coherence_t    coherence;
    ngx_convotic_tables_t       tables;
    simulate_worker_t           workers[SIMULATE_WORKERS];
    ngx_uint_t                  asked;

    /* the ledger's */

    uint64_t                    window;
    uint64_t                    until;
    uint64_t                    pool;    /* granted and not spent */
    uint64_t                    borrowed;
    uint64_t                    debt;
    uint64_t                    debt_ran;    /* of that, the store has added */
    uint64_t                    travel;  /* of the last answer, ms */
} simulate_node_t;


/* as the store opened it; group: of windows that go on as one */

typedef struct {
    uint64_t             window;
    ngx_uint_t           group;
    uint64_t             end;            /* ms, by the nodes' clock */
    uint64_t             granted;        /* of a group, and below */
    uint64_t             debts;          /* told, each once */
    uint64_t             admitted;
    uint64_t             limit;          /* the highest */
    unsigned             late:1;         /* told of one that was over */
} simulate_ledger_t;


/* what the store had, and what of it was told since */

typedef struct {
    ngx_uint_t           ledger;
    uint64_t             used;
    uint64_t             known;
} simulate_loss_t;


typedef struct {
    uint64_t             requests;
    uint64_t             admitted;
    uint64_t             borrowed;
    uint64_t             refused;
    uint64_t             questions;
    uint64_t             lost;
    uint64_t             losses;
    uint64_t             overdrawn;      /* beyond the limit, at most */
    uint64_t             overcounted;    /* in the store, at most */
    uint64_t             windows;
} simulate_counts_t;


typedef struct {
    ngx_uint_t           may;
    uint64_t             seed;
    ngx_uint_t           nodes;
    ngx_uint_t           workers;
    uint64_t             limit;
    uint64_t             share;          /* of limit, or 0: a quarter */
    uint64_t             timeout;
    uint64_t             slowness;       /* of delays, ms */
    uint64_t             first;          /* admitted before a refusal */
    ngx_uint_t           nevents;
    ngx_uint_t           size;
    simulate_event_t    *events;
} simulate_trial_t;


static simulate_trial_t     simulate;
static simulate_store_t    *simulate_store;
static simulate_node_t      simulate_nodes[SIMULATE_NODES];
static simulate_ledger_t    simulate_ledger[SIMULATE_WINDOWS];
static ngx_uint_t           simulate_windows;
static simulate_loss_t      simulate_losses[SIMULATE_LOSSES];
static ngx_uint_t           simulate_nlosses;
static simulate_counts_t    simulate_counts;

static simulate_event_t    *simulate_heap;
static ngx_uint_t           simulate_nheap, simulate_heap_size;
static simulate_question_t *simulate_questions;
static ngx_uint_t           simulate_nquestions, simulate_questions_size;

static uint64_t             simulate_order;
static uint64_t             simulate_limit;
static int64_t              simulate_offset;     /* of the store's clock */
static ngx_uint_t           simulate_away;
static ngx_uint_t           simulate_server;     /* its number */
static simulate_value_t     simulate_saved;
static ngx_pid_t            simulate_pids;
static u_char               simulate_digest[NGX_CONVOTIC_DIGEST_LEN];

static ngx_uint_t           simulate_verbose;
static char                 simulate_fault[512];


/* stand-ins for nginx's */

volatile ngx_msec_t         ngx_current_msec;
ngx_pid_t                   ngx_pid;


void
ngx_convotic_zone_lock(ngx_convotic_zone_t *zone)
{
}


void
ngx_convotic_zone_unlock(ngx_convotic_zone_t *zone)
{
}


void *
ngx_slab_alloc(ngx_slab_pool_t *pool, size_t size)
{
    return calloc(1, size);
}


u_char * ngx_cdecl
ngx_sprintf(u_char *buf, const char *fmt, ...)
{
    va_list  args;

    va_start(args, fmt);

    if (strcmp(fmt, "%uL") != 0) {
        abort();
    }

    buf += sprintf((char *) buf, "%lu", va_arg(args, uint64_t));

    va_end(args);

    return buf;
}


off_t
ngx_atoof(u_char *line, size_t n)
{
    off_t  value;

    if (n == 0 || n > 18) {
        return NGX_ERROR;
    }

    for (value = 0; n--; line++) {
        if (*line < '0' || *line > '9') {
            return NGX_ERROR;
        }

        value = value * 10 + (*line - '0');
    }

    return value;
}


/* kill() of leases.c: whether a process is there */

int
simulate_kill(pid_t pid, int signo)
{
    ngx_uint_t  i, j;

    for (i = 0; i < simulate.nodes; i++) {
        for (j = 0; j < simulate.workers; j++) {
            if (simulate_nodes[i].workers[j].pid == pid) {
                return 0;
            }
        }
    }

    errno = ESRCH;

    return -1;
}


static uint64_t  simulate_state;


static uint64_t
simulate_mix(uint64_t n)
{
    n ^= n >> 30;
    n *= 0xbf58476d1ce4e5b9ULL;
    n ^= n >> 27;
    n *= 0x94d049bb133111ebULL;

    return n ^ (n >> 31);
}


static uint64_t
simulate_random(uint64_t below)
{
    simulate_state += 0x9e3779b97f4a7c15ULL;

    return below ? simulate_mix(simulate_state) % below : 0;
}


static ngx_uint_t
simulate_chance(ngx_uint_t percent)
{
    return simulate_random(100) < percent;
}


static void ngx_cdecl
simulate_wrong(const char *fmt, ...)
{
    size_t   n;
    va_list  args;

    if (simulate_fault[0]) {
        return;
    }

    va_start(args, fmt);
    vsnprintf(simulate_fault, sizeof(simulate_fault), fmt, args);
    va_end(args);

    n = strlen(simulate_fault);

    snprintf(simulate_fault + n, sizeof(simulate_fault) - n, ", at %lu ms",
             (uint64_t) ngx_current_msec - SIMULATE_START);
}


static void ngx_cdecl
simulate_say(const char *fmt, ...)
{
    va_list  args;

    if (!simulate_verbose) {
        return;
    }

    printf("%8lu  ", (uint64_t) ngx_current_msec - SIMULATE_START);

    va_start(args, fmt);
    vprintf(fmt, args);
    va_end(args);

    printf("\n");
}


/* each look at the store's clock is another microsecond */

static int64_t
simulate_us(void)
{
    static uint64_t  n;

    return (SIMULATE_EPOCH + ngx_current_msec + simulate_offset) * 1000
           + n++ % 1000;
}


/* events */

static ngx_int_t
simulate_before(simulate_event_t *one, simulate_event_t *two)
{
    return one->time < two->time
           || (one->time == two->time && one->order < two->order);
}


static void
simulate_add(uint64_t time, simulate_what_e what, ngx_uint_t node,
    ngx_uint_t worker, int64_t n)
{
    ngx_uint_t         i;
    simulate_event_t   event, *heap;

    if (simulate_nheap == simulate_heap_size) {
        simulate_heap_size = simulate_heap_size * 2 + 64;
        simulate_heap = realloc(simulate_heap, simulate_heap_size
                                               * sizeof(simulate_event_t));
    }

    event.time = time;
    event.order = simulate_order++;
    event.what = what;
    event.node = node;
    event.worker = worker;
    event.n = n;
    event.off = 0;

    heap = simulate_heap;

    for (i = simulate_nheap++;
         i && simulate_before(&event, &heap[(i - 1) / 2]);
         i = (i - 1) / 2)
    {
        heap[i] = heap[(i - 1) / 2];
    }

    heap[i] = event;
}


static simulate_event_t
simulate_next(void)
{
    ngx_uint_t         i, child;
    simulate_event_t   event, last, *heap;

    heap = simulate_heap;
    event = heap[0];
    last = heap[--simulate_nheap];

    for (i = 0; (child = 2 * i + 1) < simulate_nheap; i = child) {

        if (child + 1 < simulate_nheap
            && simulate_before(&heap[child + 1], &heap[child]))
        {
            child++;
        }

        if (!simulate_before(&heap[child], &last)) {
            break;
        }

        heap[i] = heap[child];
    }

    heap[i] = last;

    return event;
}


/* the ledger */

static simulate_ledger_t *
simulate_find(uint64_t window)
{
    ngx_uint_t  i;

    for (i = simulate_windows; i--; /* void */ ) {
        if (simulate_ledger[i].window == window) {
            return &simulate_ledger[i];
        }
    }

    return NULL;
}


static simulate_ledger_t *
simulate_group(simulate_ledger_t *l)
{
    while (&simulate_ledger[l->group] != l) {
        l = &simulate_ledger[l->group];
    }

    return l;
}


static simulate_ledger_t *
simulate_open(uint64_t window)
{
    simulate_ledger_t  *l;

    l = simulate_find(window);

    if (l == NULL) {
        if (simulate_windows == SIMULATE_WINDOWS) {
            abort();
        }

        l = &simulate_ledger[simulate_windows];
        ngx_memzero(l, sizeof(simulate_ledger_t));
        l->window = window;
        l->group = simulate_windows++;
        simulate_counts.windows++;
    }

    return l;
}


static void
simulate_unite(simulate_ledger_t *one, simulate_ledger_t *two)
{
    one = simulate_group(one);
    two = simulate_group(two);

    if (one == two) {
        return;
    }

    two->granted += one->granted;
    two->debts += one->debts;
    two->admitted += one->admitted;
    two->limit = ngx_max(one->limit, two->limit);
    two->late |= one->late;
    one->group = two - simulate_ledger;
}


/* the window that the store has may be lost now */

static void
simulate_lose(uint64_t known)
{
    simulate_loss_t    *loss;
    simulate_window_t   window;

    simulate_store_window(simulate_store, simulate_us(), &window);

    simulate_counts.losses++;

    if (window.window == 0 || simulate_nlosses == SIMULATE_LOSSES
        || simulate_find(window.window) == NULL)
    {
        return;
    }

    loss = &simulate_losses[simulate_nlosses++];
    loss->ledger = simulate_find(window.window) - simulate_ledger;
    loss->used = window.used;
    loss->known = known;
}


/*
 * What may be admitted in a group, at most: beyond the limit what was lost and
 * nobody told of.  Behind a second loss what was told may be lost again.
 */

static uint64_t
simulate_bound(simulate_ledger_t *group)
{
    uint64_t          bound, known;
    ngx_uint_t        i;
    simulate_loss_t  *loss;

    bound = group->limit;

    for (i = 0; i < simulate_nlosses; i++) {
        loss = &simulate_losses[i];

        if (simulate_group(&simulate_ledger[loss->ledger]) == group) {
            known = (simulate_nlosses == 1) ? loss->known : 0;
            bound += loss->used - ngx_min(loss->used, known);
        }
    }

    return bound;
}


/* the script has run: what the store had, has, and answered */

static void
simulate_account(simulate_question_t *q, ngx_uint_t node,
    simulate_window_t *before, simulate_window_t *after)
{
    uint64_t                     fresh, bound, truth;
    ngx_uint_t                   i;
    simulate_node_t             *n;
    simulate_loss_t             *loss;
    simulate_ledger_t           *l, *known, *group;
    ngx_convotic_leases_ask_t   *ask;
    ngx_convotic_leases_told_t  *told;

    ask = &q->ask;
    told = &q->told;
    n = &simulate_nodes[node];

    l = simulate_open(after->window);
    l->end = ngx_current_msec + told->rest;

    /* another number, since another server has it */

    if (before->window && before->window != after->window
        && after->was == before->window && simulate_find(before->window))
    {
        simulate_unite(simulate_find(before->window), l);
    }

    known = ask->window ? simulate_find(ask->window) : NULL;

    if (known && ask->rest) {

        if (known != l && ngx_current_msec >= known->end) {
            l->late = 1;

        } else if (known == l || after->was == ask->window) {
            simulate_unite(known, l);
        }

        for (i = 0; i < simulate_nlosses; i++) {
            loss = &simulate_losses[i];

            if (&simulate_ledger[loss->ledger] == known && told->kept) {
                loss->known = ngx_max(loss->known, ask->used);
            }
        }
    }

    group = simulate_group(l);
    group->limit = ngx_max(group->limit, ask->limit);
    group->granted += told->granted;

    fresh = ask->debt - ngx_min(ask->debt, n->debt_ran);
    n->debt_ran = ngx_max(n->debt_ran, ask->debt);
    group->debts += fresh;

    /* what the script does at any time */

    if (told->used != after->used || told->window != after->window) {
        simulate_wrong("the answer is not what was stored");
    }

    if (told->granted > 1
        && (told->granted > ask->want
            || told->granted
               > (ask->limit - (told->used - told->granted)) / 4))
    {
        simulate_wrong("%lu granted of %lu, used %lu", told->granted,
                       ask->limit, told->used);
    }

    if (told->granted && told->used > ask->limit) {
        simulate_wrong("granted beyond the limit");
    }

    if (told->granted == 0 && told->used < ask->limit) {
        simulate_wrong("nothing granted, used %lu of %lu", told->used,
                       ask->limit);
    }

    /* what it comes to; what is told later is not known yet */

    bound = simulate_bound(group);

    if (told->granted && group->granted > bound) {
        simulate_wrong("%lu granted in a window, bound %lu, limit %lu",
                       group->granted, bound, group->limit);
    }

    simulate_counts.overdrawn = ngx_max(simulate_counts.overdrawn,
                                        group->granted
                                        - ngx_min(group->granted,
                                                  group->limit));

    truth = group->granted + group->debts;

    if (told->used > truth && !group->late) {
        simulate_counts.overcounted = ngx_max(simulate_counts.overcounted,
                                              told->used - truth);

        /*
         * A window that is lost twice may be counted again, and so may a debt
         * that was told by a question whose answer was lost.
         */

        if (!(simulate.may & SIMULATE_LOST)
            && (!(simulate.may & SIMULATE_LOSS) || simulate_nlosses < 2))
        {
            simulate_wrong("the store counts %lu, of which %lu twice",
                           told->used, told->used - truth);
        }
    }

    if (told->used < truth && !(simulate.may & SIMULATE_LOSS)) {
        simulate_wrong("the store counts %lu of %lu", told->used, truth);
    }
}


/* a request was admitted from the node's lease */

static void
simulate_spent(ngx_uint_t node, ngx_convotic_allowance_t *allowance)
{
    simulate_node_t    *n;
    simulate_window_t   window;
    simulate_ledger_t  *l;

    n = &simulate_nodes[node];
    simulate_counts.admitted++;

    if (n->pool == 0) {
        simulate_wrong("node %lu spent what nobody granted", node);
        return;
    }

    n->pool--;

    l = simulate_group(simulate_find(n->window));
    l->admitted++;

    if (l->admitted > l->granted && !l->late) {
        simulate_wrong("%lu admitted of %lu granted", l->admitted,
                       l->granted);
    }

    if (allowance->remaining >= simulate_limit) {
        simulate_wrong("%lu remaining of %lu", allowance->remaining,
                       simulate_limit);
    }

    if (allowance->rest > NGX_CONVOTIC_LEASES_WINDOW + 5000 + SIMULATE_TICK) {
        simulate_wrong("a rest of %lu ms", (uint64_t) allowance->rest);
    }

    if (simulate.may & SIMULATE_LOSS) {
        return;
    }

    simulate_store_window(simulate_store, simulate_us(), &window);

    if (window.window != n->window) {
        simulate_wrong("node %lu admitted in a window that is over", node);
    }

    if (simulate.nodes == 1 && simulate.may == 0
        && allowance->remaining != simulate_limit - l->admitted)
    {
        simulate_wrong("%lu remaining behind %lu of %lu",
                       allowance->remaining, l->admitted, simulate_limit);
    }
}


static void
simulate_refused(ngx_uint_t node)
{
    uint64_t            truth;
    simulate_node_t    *n;
    simulate_window_t   window;
    simulate_ledger_t  *l;

    n = &simulate_nodes[node];

    if (simulate_counts.refused++ == 0) {
        simulate.first = simulate_counts.admitted;
    }

    if (simulate.may & SIMULATE_LOSS) {
        return;
    }

    simulate_store_window(simulate_store, simulate_us(), &window);

    if (n->window && window.window == n->window) {
        l = simulate_group(simulate_find(n->window));
        truth = l->granted + l->debts + n->debt - n->debt_ran;

        /* what the store, or the node, counts twice is refused, too */

        if (truth < simulate_limit && !l->late
            && !((simulate.may & SIMULATE_LOST)
                 && (window.used + n->debt >= simulate_limit
                     || n->debt_ran)))
        {
            simulate_wrong("node %lu refused at %lu of %lu", node, truth,
                           simulate_limit);
        }

    } else if (n->window) {
        l = simulate_find(n->window);

        if (ngx_current_msec >= l->end + n->travel + SIMULATE_TICK) {
            simulate_wrong("node %lu refused for a window that is over",
                           node);
        }

    } else if (n->borrowed < simulate_limit) {
        simulate_wrong("node %lu refused in a window of its own", node);
    }
}


/* nodes: as limit.c goes about it */

static uint64_t
simulate_share(void)
{
    if (!(simulate.may & SIMULATE_LOCAL)) {
        return 0;
    }

    return simulate.share ? simulate.share : ngx_max(simulate_limit / 4, 1);
}


static void
simulate_unsure(ngx_uint_t node)
{
    uint64_t                   share;
    ngx_int_t                  rc;
    simulate_node_t           *n;
    ngx_convotic_allowance_t   allowance;

    n = &simulate_nodes[node];
    share = simulate_share();

    if (ngx_current_msec >= n->until) {
        n->window = 0;
        n->pool = 0;
        n->borrowed = 0;
        n->debt = 0;
        n->debt_ran = 0;
        n->until = ngx_current_msec + NGX_CONVOTIC_LEASES_WINDOW;
    }

    rc = ngx_convotic_leases_borrow(&n->zone, simulate_digest, simulate_limit,
                                    share, &allowance);

    if (rc != NGX_OK) {
        if (n->borrowed < share) {
            simulate_refused(node);
        }

        return;
    }

    n->borrowed++;
    n->debt++;
    simulate_counts.borrowed++;

    simulate_say("node %lu: borrowed %lu", node, n->borrowed);

    if (n->borrowed > share) {
        simulate_wrong("node %lu borrowed %lu of %lu", node, n->borrowed,
                       share);
    }
}


static ngx_convotic_leases_e
simulate_spend(ngx_uint_t node)
{
    ngx_convotic_leases_e     rc;
    ngx_convotic_allowance_t  allowance;

    rc = ngx_convotic_leases_spend(&simulate_nodes[node].zone,
                                   simulate_digest, simulate_limit,
                                   &allowance);
    switch (rc) {

    case NGX_CONVOTIC_LEASES_SPENT:
    case NGX_CONVOTIC_LEASES_LOW:
        simulate_say("node %lu: admitted, %lu remaining", node,
                     allowance.remaining);
        simulate_spent(node, &allowance);
        break;

    case NGX_CONVOTIC_LEASES_OVER:
        simulate_say("node %lu: refused, for %lu ms", node,
                     (uint64_t) allowance.rest);
        simulate_refused(node);
        break;

    case NGX_CONVOTIC_LEASES_NONE:
        break;
    }

    return rc;
}


static ngx_int_t
simulate_put(ngx_uint_t node, ngx_uint_t worker)
{
    uint64_t              go, back, slow;
    ngx_int_t             rc;
    simulate_node_t      *n;
    simulate_question_t  *q;

    n = &simulate_nodes[node];

    if (simulate_nquestions == simulate_questions_size) {
        simulate_questions_size = simulate_questions_size * 2 + 64;
        simulate_questions = realloc(simulate_questions,
                                     simulate_questions_size
                                     * sizeof(simulate_question_t));
    }

    q = &simulate_questions[simulate_nquestions];
    ngx_memzero(q, sizeof(simulate_question_t));

    rc = ngx_convotic_leases_claim(&n->zone, simulate_digest, simulate_limit,
                                   &q->ask);
    if (rc != NGX_OK) {
        return rc;
    }

    /* a question's fate is the node's, whatever the others ask */

    simulate_state = simulate_mix(simulate.seed * 1000 + node)
                     + simulate_mix(n->asked++);

    slow = simulate.slowness;

    if ((simulate.may & SIMULATE_SLOW) && simulate_chance(5)) {
        slow = 3000;
    }

    go = simulate_random(slow);
    back = 1 + simulate_random(slow);    /* time goes on between two */

    if (simulate_away && simulate_chance(50)) {
        ngx_convotic_leases_fail(&n->zone, &q->ask);
        return NGX_DECLINED;
    }

    q->sent = ngx_current_msec;
    q->pid = n->workers[worker].pid;
    sprintf((char *) q->run_id, "%016lx", simulate_mix(simulate_server));

    simulate_say("node %lu: asks for %lu, tells of %lu: %lu for %lu ms, "
                 "debt %lu", node, q->ask.want, q->ask.window, q->ask.used,
                 (uint64_t) q->ask.rest, q->ask.debt);

    simulate_counts.questions++;

    if ((simulate.may & SIMULATE_LOST) && simulate_chance(15)) {
        simulate_counts.lost++;

        switch (simulate_random(3)) {

        case 0:
            q->lost = 1;
            break;

        case 1:
            simulate_add(q->sent + go, SIMULATE_AGAIN, node, worker,
                         simulate_nquestions);
            go += simulate_random(slow);
            break;

        default:
            go = 0;
        }
    }

    if (go || slow == 0 || !(simulate.may & SIMULATE_LOST)) {
        q->ran = back;
        simulate_add(q->sent + go, SIMULATE_QUESTION, node, worker,
                     simulate_nquestions);
    }

    simulate_add(q->sent + simulate.timeout, SIMULATE_TIMEOUT, node, worker,
                 simulate_nquestions);
    simulate_nquestions++;

    return NGX_OK;
}


static void
simulate_settle(ngx_uint_t node, ngx_uint_t worker)
{
    ngx_int_t           rc;
    simulate_worker_t  *w;

    w = &simulate_nodes[node].workers[worker];
    ngx_pid = w->pid;
    rc = NGX_OK;

    while (w->waiters) {

        if (simulate_spend(node) != NGX_CONVOTIC_LEASES_NONE) {
            w->waiters--;
            continue;
        }

        rc = simulate_put(node, worker);

        if (rc == NGX_AGAIN) {
            continue;
        }

        if (rc != NGX_DECLINED) {
            break;
        }

        w->waiters--;
        simulate_unsure(node);
    }

    if (w->waiters == 0) {
        w->active = 0;
        w->remote = 0;
        return;
    }

    w->remote = (rc == NGX_BUSY) ? 1 : 0;

    if (w->remote && !w->look) {
        w->look = 1;
        simulate_add(ngx_current_msec + SIMULATE_POLL, SIMULATE_LOOK, node,
                     worker, w->pid);
    }
}


static void
simulate_request(ngx_uint_t node, ngx_uint_t worker)
{
    simulate_worker_t  *w;

    w = &simulate_nodes[node].workers[worker];
    ngx_pid = w->pid;

    simulate_counts.requests++;

    switch (simulate_spend(node)) {

    case NGX_CONVOTIC_LEASES_LOW:
        if (!w->active && simulate_put(node, worker) == NGX_OK) {
            w->active = 1;
        }

        break;

    case NGX_CONVOTIC_LEASES_NONE:
        w->waiters++;

        if (!w->active) {
            w->active = 1;
            simulate_settle(node, worker);
        }

        break;

    default:
        break;
    }
}


/* the script; last: this is the answer that the node may hear */

static void
simulate_ask(simulate_event_t *event, ngx_uint_t last)
{
    int64_t                     us;
    uint64_t                    back;
    ngx_str_t                   argv[NGX_CONVOTIC_LEASES_ARGC], run_id;
    u_char                      digits[NGX_CONVOTIC_LEASES_DIGITS];
    simulate_value_t            value;
    simulate_window_t           before, after;
    simulate_question_t        *q;
    ngx_convotic_resp_t        *reply;

    q = &simulate_questions[event->n];
    back = q->ran;

    run_id.len = sprintf((char *) digits, "%016lx",
                         simulate_mix(simulate_server));
    run_id.data = q->run_id;

    /* a connection does not outlive its server */

    if (simulate_away || ngx_memcmp(digits, q->run_id, 16) != 0) {
        simulate_say("node %lu: the question is lost", event->node);
        return;
    }

    ngx_convotic_leases_arguments(&q->ask, &run_id, digits, argv);

    us = simulate_us();
    value = *simulate_store_value(simulate_store);
    simulate_store_window(simulate_store, us, &before);

    reply = simulate_store_eval(simulate_store, us, NGX_CONVOTIC_LEASES_ARGC,
                                argv);

    if (reply == NULL
        || ngx_convotic_leases_parse(&q->ask, reply, &q->told) != NGX_OK)
    {
        simulate_wrong("the script died");
        return;
    }

    if (simulate_redis_same(us, &value, argv, reply,
                            simulate_store_value(simulate_store))
        != NGX_OK)
    {
        simulate_wrong("Redis answered something else");
        return;
    }

    simulate_store_window(simulate_store, us, &after);
    simulate_say("node %lu: %.*s, granted %lu%s", event->node,
                 (int) simulate_store_value(simulate_store)->len,
                 simulate_store_value(simulate_store)->data, q->told.granted,
                 q->told.kept ? "" : ", anew");
    simulate_account(q, event->node, &before, &after);

    if (last && !q->lost) {
        simulate_add(ngx_current_msec + back, SIMULATE_ANSWER, event->node,
                     event->worker, event->n);
        q->ran = ngx_current_msec;
    }
}


static void
simulate_answer(simulate_event_t *event)
{
    simulate_node_t      *n;
    simulate_worker_t    *w;
    simulate_question_t  *q;

    n = &simulate_nodes[event->node];
    w = &n->workers[event->worker];
    q = &simulate_questions[event->n];

    if (q->done || q->pid != w->pid) {
        return;
    }

    q->done = 1;
    ngx_pid = w->pid;

    if (event->what == SIMULATE_TIMEOUT) {
        simulate_say("node %lu: no answer", event->node);
        ngx_convotic_leases_fail(&n->zone, &q->ask);
        simulate_settle(event->node, event->worker);
        return;
    }

    if (!q->told.kept || ngx_current_msec >= n->until) {
        n->pool = 0;
        n->borrowed = 0;
        n->debt = 0;
        n->debt_ran = 0;

    } else {
        n->debt -= ngx_min(n->debt, q->ask.debt);
        n->debt_ran -= ngx_min(n->debt_ran, q->ask.debt);
    }

    n->window = q->told.window;
    n->pool += q->told.granted;
    n->until = ngx_current_msec + q->told.rest;
    n->travel = ngx_current_msec - q->ran;

    simulate_say("node %lu: is granted %lu", event->node, q->told.granted);

    ngx_convotic_leases_bank(&n->zone, &q->ask, &q->told);
    simulate_settle(event->node, event->worker);
}


static void
simulate_worker_starts(simulate_worker_t *w)
{
    ngx_memzero(w, sizeof(simulate_worker_t));
    w->pid = ++simulate_pids;
}


static void
simulate_node_starts(ngx_uint_t node)
{
    u_char           *entries;
    ngx_uint_t        i;
    simulate_node_t  *n;

    n = &simulate_nodes[node];
    entries = n->tables.leases.entries;

    ngx_memzero(&n->tables, sizeof(ngx_convotic_tables_t));
    free(entries);

    n->zone.coherence = &n->coherence;
    n->zone.tables = &n->tables;
    n->zone.scope = 1;

    if (ngx_convotic_table_create(&n->tables.leases, NULL, 4096,
                                  ngx_convotic_leases_value())
        != NGX_OK)
    {
        abort();
    }

    for (i = 0; i < simulate.workers; i++) {
        simulate_worker_starts(&n->workers[i]);
    }

    n->window = 0;
    n->until = 0;
    n->pool = 0;
    n->borrowed = 0;
    n->debt = 0;
    n->debt_ran = 0;
    n->travel = 0;
}


static void
simulate_store_put(const char *fmt, ...)
{
    va_list            args;
    simulate_value_t  *value;

    value = simulate_store_value(simulate_store);

    va_start(args, fmt);
    value->len = vsnprintf((char *) value->data, SIMULATE_VALUE_LEN, fmt,
                           args);
    va_end(args);

    value->expires = simulate_us() / 1000 + NGX_CONVOTIC_LEASES_WINDOW;
}


static void
simulate_happen(simulate_event_t *event)
{
    int64_t            us;
    ngx_uint_t         i;
    simulate_value_t  *value;
    simulate_window_t  window;

    value = simulate_store_value(simulate_store);

    switch (event->what) {

    case SIMULATE_REQUEST:
        simulate_request(event->node, event->worker);
        break;

    case SIMULATE_NODE_DIES:
        simulate_node_starts(event->node);
        break;

    case SIMULATE_WORKER_DIES:
        simulate_worker_starts(
                      &simulate_nodes[event->node].workers[event->worker]);
        break;

    case SIMULATE_STORE_FORGETS:
        simulate_lose(0);
        value->len = 0;
        break;

    case SIMULATE_STORE_RESTARTS:
        simulate_lose(0);
        simulate_server++;
        value->len = 0;
        break;

    case SIMULATE_STORE_IS_SAVED:
        simulate_saved = *value;
        break;

    case SIMULATE_STORE_IS_RESTORED:
        us = simulate_us();
        simulate_store_window(simulate_store, us, &window);
        simulate_lose(0);

        *value = simulate_saved;
        simulate_server++;

        if (window.window && simulate_nlosses) {
            i = simulate_nlosses - 1;
            simulate_store_window(simulate_store, us, &window);

            if (simulate_ledger[simulate_losses[i].ledger].window
                == window.window)
            {
                simulate_losses[i].known = window.used;
            }
        }

        break;

    case SIMULATE_STORE_JUNK:
        simulate_lose(0);

        switch (event->n % 4) {
        case 0:
            simulate_store_put("WRONGTYPE");
            break;
        case 1:
            simulate_store_put("1 2 3");
            break;
        case 2:
            simulate_store_put("%s", "");
            break;
        default:
            simulate_store_put("-1 x %ld 0 0 -", simulate_us());
        }

        break;

    case SIMULATE_STORE_RESET:
        simulate_lose(0);
        us = simulate_us();
        simulate_store_put("%ld %ld 0 * 0 -", us,
                           us / 1000 + NGX_CONVOTIC_LEASES_WINDOW);
        break;

    case SIMULATE_STORE_AWAY:
        simulate_away = event->n;
        break;

    case SIMULATE_CLOCK_STEPS:
        simulate_lose(0);
        simulate_offset += event->n;
        break;

    case SIMULATE_LIMIT_CHANGES:
        simulate_limit = event->n;
        break;

    case SIMULATE_RECORD_CHANGES:
        for (i = 0; i < simulate.nodes; i++) {
            ngx_convotic_leases_doubt(&simulate_nodes[i].zone,
                                      simulate_digest);
        }

        break;

    case SIMULATE_TRACKING_LOST:
        simulate_nodes[event->node].coherence.epoch++;
        break;

    case SIMULATE_AGAIN:
        simulate_ask(event, 0);
        break;

    case SIMULATE_QUESTION:
        simulate_ask(event, 1);
        break;

    case SIMULATE_ANSWER:
    case SIMULATE_TIMEOUT:
        simulate_answer(event);
        break;

    case SIMULATE_LOOK:
        if (simulate_nodes[event->node].workers[event->worker].pid
            == event->n)
        {
            simulate_nodes[event->node].workers[event->worker].look = 0;
            simulate_settle(event->node, event->worker);
        }
    }
}


/* a trial */

static void
simulate_plan_add(uint64_t time, simulate_what_e what, ngx_uint_t node,
    ngx_uint_t worker, int64_t n)
{
    simulate_event_t  *event;

    if (simulate.nevents == simulate.size) {
        simulate.size = simulate.size * 2 + 64;
        simulate.events = realloc(simulate.events,
                                  simulate.size * sizeof(simulate_event_t));
    }

    event = &simulate.events[simulate.nevents++];

    ngx_memzero(event, sizeof(simulate_event_t));
    event->time = time;
    event->what = what;
    event->node = node;
    event->worker = worker;
    event->n = n;
}


/* requests in bursts, of nodes that are unequal; some are idle for long */

static void
simulate_plan_requests(uint64_t length)
{
    uint64_t    time, gap, burst, requests;
    ngx_uint_t  node, busiest;

    requests = ngx_min(simulate.limit * length / 60000, 3000);
    requests = requests / 2 + simulate_random(2 * requests) + 20;
    busiest = simulate_random(simulate.nodes);
    gap = length / requests + 1;
    time = 0;

    while (time < length) {
        burst = simulate_chance(10) ? simulate_random(50) + 1 : 1;
        node = simulate_chance(30) ? busiest
                                   : simulate_random(simulate.nodes);

        while (burst--) {
            simulate_plan_add(time, SIMULATE_REQUEST, node,
                              simulate_random(simulate.workers), 0);
            time += simulate_chance(50) ? 0 : simulate_random(gap) / 4;
        }

        time += simulate_random(4 * gap);

        if (simulate_random(requests) < 3) {
            time += simulate_random(length / 3);
            busiest = simulate_random(simulate.nodes);
        }
    }
}


static void
simulate_plan_faults(uint64_t length)
{
    uint64_t         time;
    ngx_uint_t       node, worker, n, fault;

    static int64_t   steps[] = { 3600000, -3600000, 20000, -20000, 1500,
                                 -1500, 59000, -61000 };
    static uint64_t  limits[] = { 1, 2, 10, 100, 1000, 1000000 };

    for (n = 1 + simulate_random(10); n; n--) {

        time = simulate_random(length);
        node = simulate_random(simulate.nodes);
        worker = simulate_random(simulate.workers);

        do {
            fault = 1 << simulate_random(16);
        } while (!(fault & (simulate.may | SIMULATE_NOTHING)));

        switch (fault) {

        case SIMULATE_AWAY:
            simulate_plan_add(time, SIMULATE_STORE_AWAY, 0, 0, 1);
            simulate_plan_add(time + simulate_random(length / 2),
                              SIMULATE_STORE_AWAY, 0, 0, 0);
            break;

        case SIMULATE_DEATH:
            simulate_plan_add(time, simulate_chance(50)
                                    ? SIMULATE_NODE_DIES
                                    : SIMULATE_WORKER_DIES,
                              node, worker, 0);
            break;

        case SIMULATE_LIMITS:
            simulate_plan_add(time, SIMULATE_LIMIT_CHANGES, 0, 0,
                              limits[simulate_random(6)]);
            simulate_plan_add(time + simulate_random(20),
                              SIMULATE_RECORD_CHANGES, 0, 0, 0);
            break;

        case SIMULATE_FORGET:
            simulate_plan_add(time, simulate_chance(50)
                                    ? SIMULATE_STORE_FORGETS
                                    : SIMULATE_STORE_RESTARTS,
                              0, 0, 0);
            break;

        case SIMULATE_RESTORE:
            simulate_plan_add(time, SIMULATE_STORE_IS_SAVED, 0, 0, 0);
            simulate_plan_add(time + simulate_random(30000),
                              SIMULATE_STORE_IS_RESTORED, 0, 0, 0);
            break;

        case SIMULATE_STEP:
            simulate_plan_add(time, SIMULATE_CLOCK_STEPS, 0, 0,
                              steps[simulate_random(8)]);
            break;

        case SIMULATE_RESET:
            simulate_plan_add(time, SIMULATE_STORE_RESET, 0, 0, 0);
            simulate_plan_add(time + simulate_random(20),
                              SIMULATE_RECORD_CHANGES, 0, 0, 0);
            break;

        case SIMULATE_JUNK:
            simulate_plan_add(time, SIMULATE_STORE_JUNK, 0, 0,
                              simulate_random(4));
            break;

        default:
            simulate_plan_add(time, SIMULATE_TRACKING_LOST, node, 0, 0);
        }
    }
}


static void
simulate_plan(ngx_uint_t may, uint64_t seed)
{
    uint64_t          length;

    static uint64_t   limits[] = { 1, 2, 10, 100, 1000, 1000, 5000, 1000000 };
    static uint64_t   nodes[] = { 1, 2, 3, 4, 8, 32, 100 };
    static uint64_t   timeouts[] = { 50, 100, 1000, 4000, 8000, 20000 };
    static uint64_t   slowness[] = { 1, 2, 10, 50 };

    simulate_state = simulate_mix(seed + 1) + may;

    free(simulate.events);
    ngx_memzero(&simulate, sizeof(simulate_trial_t));

    simulate.may = may;
    simulate.seed = seed;
    simulate.limit = limits[simulate_random(8)];
    simulate.nodes = nodes[simulate_random(7)];
    simulate.workers = 1 + simulate_random(SIMULATE_WORKERS);
    simulate.share = simulate_chance(50) ? 0 : 1 + simulate_random(100);
    simulate.slowness = slowness[simulate_random(4)];
    simulate.timeout = (may & SIMULATE_LOST) ? timeouts[simulate_random(6)]
                                             : 20000;

    length = 30000 + simulate_random(200000);

    simulate_plan_requests(length);
    simulate_plan_faults(length);
}


static void
simulate_begin(void)
{
    ngx_uint_t  i;

    ngx_current_msec = SIMULATE_START;

    simulate_fault[0] = '\0';
    simulate_windows = 0;
    simulate_nlosses = 0;
    simulate_nheap = 0;
    simulate_nquestions = 0;
    simulate_order = 0;
    simulate_limit = simulate.limit;
    simulate_offset = 0;
    simulate_away = 0;
    simulate_server = 1;
    simulate_pids = 0;
    simulate.first = 0;

    simulate_saved.len = 0;
    simulate_store_value(simulate_store)->len = 0;

    for (i = 0; i < simulate.nodes; i++) {
        simulate_nodes[i].asked = 0;
        simulate_nodes[i].coherence.epoch = 1;
        simulate_node_starts(i);
    }

    for (i = 0; i < simulate.nevents; i++) {
        if (!simulate.events[i].off) {
            simulate_add(SIMULATE_START + simulate.events[i].time,
                         simulate.events[i].what, simulate.events[i].node,
                         simulate.events[i].worker, simulate.events[i].n);
        }
    }
}


static ngx_int_t
simulate_run(void)
{
    ngx_uint_t        i, j, n;
    simulate_event_t  event;

    simulate_begin();

    for (n = 0; simulate_nheap && simulate_fault[0] == '\0'; n++) {

        if (n == SIMULATE_ROUNDS) {
            simulate_wrong("it never ends");
            break;
        }

        event = simulate_next();
        ngx_current_msec = event.time;

        if (event.what != SIMULATE_REQUEST && event.what < SIMULATE_QUESTION)
        {
            simulate_say("%s (%ld, %ld)", simulate_names[event.what],
                         event.node, event.n);
        }

        simulate_happen(&event);
    }

    for (i = 0; i < simulate.nodes && simulate_fault[0] == '\0'; i++) {
        for (j = 0; j < simulate.workers; j++) {
            if (simulate_nodes[i].workers[j].waiters) {
                simulate_wrong("node %lu: somebody waits for ever", i);
            }
        }
    }

    return simulate_fault[0] ? NGX_ERROR : NGX_OK;
}


/* without what is not needed for it to fail */

static void
simulate_shrink(void)
{
    ngx_uint_t  i, chunk, any;

    do {
        any = 0;

        for (chunk = simulate.nevents / 2; chunk; chunk /= 2) {

            for (i = 0; i < simulate.nevents; i += chunk) {
                ngx_uint_t         j, n;
                simulate_event_t  *saved;

                n = ngx_min(chunk, simulate.nevents - i);
                saved = malloc(n * sizeof(simulate_event_t));
                ngx_memcpy(saved, &simulate.events[i],
                           n * sizeof(simulate_event_t));

                ngx_memmove(&simulate.events[i], &simulate.events[i + n],
                            (simulate.nevents - i - n)
                            * sizeof(simulate_event_t));
                simulate.nevents -= n;

                if (simulate_run() == NGX_ERROR) {
                    any = 1;
                    i -= chunk;

                } else {
                    for (j = simulate.nevents; j > i; j--) {
                        simulate.events[j + n - 1] = simulate.events[j - 1];
                    }

                    ngx_memcpy(&simulate.events[i], saved,
                               n * sizeof(simulate_event_t));
                    simulate.nevents += n;
                }

                free(saved);
            }
        }

    } while (any);
}


static int
simulate_trials(const char *name, uint64_t first, uint64_t count,
    ngx_uint_t shrink)
{
    uint64_t            seed;
    ngx_uint_t          i, n;
    simulate_counts_t  *c;

    n = sizeof(simulate_kinds) / sizeof(simulate_kinds[0]);

    for (i = 0; i < n && strcmp(name, simulate_kinds[i].name) != 0; i++) {
        /* void */
    }

    if (i == n) {
        fprintf(stderr, "there is no kind \"%s\"\n", name);
        return 2;
    }

    for (seed = first; seed < first + count; seed++) {

        simulate_plan(simulate_kinds[i].may, seed);

        if (simulate_run() == NGX_OK) {
            continue;
        }

        if (shrink) {
            simulate_shrink();
            simulate_verbose = 1;
            (void) simulate_run();
        }

        printf("%s, seed %lu: %s (%lu nodes of %lu workers, limit %lu, "
               "timeout %lu)\n", name, seed, simulate_fault, simulate.nodes,
               simulate.workers, simulate.limit, simulate.timeout);
        return 1;
    }

    c = &simulate_counts;

    printf("ok %s: %lu trials, %lu windows, %lu requests, %lu admitted, "
           "%lu borrowed, %lu refused, %lu questions, %lu of them lost, "
           "%lu losses, %lu overdrawn, %lu counted twice\n",
           name, count, c->windows, c->requests, c->admitted, c->borrowed,
           c->refused, c->questions, c->lost, c->losses, c->overdrawn,
           c->overcounted);

    return 0;
}


/* one node, one request after the other */

static int
simulate_one(uint64_t limit)
{
    uint64_t          i, n;
    simulate_event_t  event;

    ngx_memzero(&simulate, sizeof(simulate_trial_t));
    simulate.nodes = 1;
    simulate.workers = 1;
    simulate.limit = limit;
    simulate.timeout = 20000;
    simulate.slowness = 1;

    simulate_begin();

    for (n = 1; n <= 2; n++) {
        for (i = 0; i < limit + 10 && !simulate_fault[0]; i++) {
            simulate_request(0, 0);

            /* whatever takes no longer than an answer */

            while (simulate_nheap && simulate_heap[0].time
                                     <= ngx_current_msec + 1)
            {
                event = simulate_next();
                ngx_current_msec = ngx_max(ngx_current_msec, event.time);
                simulate_happen(&event);
            }
        }

        if (simulate_counts.admitted != n * limit) {
            simulate_wrong("%lu admitted", simulate_counts.admitted);
        }

        if (simulate_counts.refused != n * 10) {
            simulate_wrong("%lu refused", simulate_counts.refused);
        }

        ngx_current_msec += NGX_CONVOTIC_LEASES_WINDOW + SIMULATE_TICK;
    }

    if (simulate_fault[0]) {
        printf("limit %lu: %s\n", limit, simulate_fault);
        return 1;
    }

    printf("ok limit %lu: all of it in each of 2 windows, %lu questions\n",
           limit, simulate_counts.questions);

    return 0;
}


static int
simulate_compare(const void *one, const void *two)
{
    return (*(uint64_t *) one > *(uint64_t *) two)
           - (*(uint64_t *) one < *(uint64_t *) two);
}


/* even load, half as much again as the limit, within the minute */

static int
simulate_figure(uint64_t nodes, uint64_t limit, ngx_uint_t trials)
{
    uint64_t    i, n, requests, first[100];
    ngx_uint_t  trial;

    ngx_memzero(&simulate_counts, sizeof(simulate_counts_t));
    n = 0;

    for (trial = 0; trial < trials; trial++) {
        free(simulate.events);
        ngx_memzero(&simulate, sizeof(simulate_trial_t));

        simulate_state = simulate_mix(trial + 1);
        simulate.seed = trial;
        simulate.nodes = nodes;
        simulate.workers = 1;
        simulate.limit = limit;
        simulate.timeout = 20000;
        simulate.slowness = 3;

        requests = limit + limit / 2;

        simulate.nevents = requests;
        simulate.events = calloc(requests, sizeof(simulate_event_t));

        for (i = 0; i < requests; i++) {
            simulate.events[i].time = simulate_random(58000);
            simulate.events[i].node = simulate_random(nodes);
        }

        simulate_counts.refused = 0;
        n += simulate_counts.admitted;
        simulate_counts.admitted = 0;

        if (simulate_run() != NGX_OK) {
            printf("%s\n", simulate_fault);
            return 1;
        }

        first[trial] = simulate.first;
    }

    n += simulate_counts.admitted;
    qsort(first, trials, sizeof(uint64_t), simulate_compare);

    printf("| %lu | %lu | %lu | %lu | %.1f | %.1f |\n", nodes, limit,
           first[trials / 2], first[0], (double) n / trials,
           (double) simulate_counts.questions * 1000 / n);

    return 0;
}


static int
simulate_figures(void)
{
    ngx_uint_t       i;

    static uint64_t  nodes[] = { 1, 2, 4, 8, 32, 100 };
    static uint64_t  limits[] = { 100, 10000, 1000000 };

    for (i = 0; i < 6; i++) {
        if (simulate_figure(nodes[i], 1000, 100)) {
            return 1;
        }
    }

    for (i = 0; i < 3; i++) {
        if (simulate_figure(1, limits[i], limits[i] > 10000 ? 3 : 100)) {
            return 1;
        }
    }

    return 0;
}


static int
simulate_usage(void)
{
    fprintf(stderr, "usage: see the beginning of simulate.c\n");
    return 2;
}


int
main(int argc, char **argv)
{
    int         rc;
    ngx_uint_t  i, shrink;

    shrink = 0;

    for ( /* void */ ; argc > 1 && argv[1][0] == '-'; argc--, argv++) {
        if (argv[1][1] == 'v') {
            simulate_verbose = 1;
        } else {
            shrink = 1;
        }
    }

    simulate_store = simulate_store_create(&ngx_convotic_leases_script);

    if (argc == 2 && strcmp(argv[1], "figures") == 0) {
        rc = simulate_figures();

    } else if (argc == 3 && strcmp(argv[1], "one") == 0) {
        rc = simulate_one(strtoull(argv[2], NULL, 10));

    } else if (argc == 3 && strcmp(argv[1], "real") == 0) {
        rc = simulate_redis_real(argv[2]);

    } else if (argc == 5 && strcmp(argv[1], "same") == 0) {
        rc = (simulate_redis_open(argv[2]) == NGX_OK)
             ? simulate_trials("all", strtoull(argv[3], NULL, 10),
                               strtoull(argv[4], NULL, 10), 0)
             : 1;
        simulate_redis_close();

    } else if (argc == 4) {
        rc = simulate_trials(argv[1], strtoull(argv[2], NULL, 10),
                             strtoull(argv[3], NULL, 10), shrink);
    } else {
        rc = simulate_usage();
    }

    for (i = 0; i < SIMULATE_NODES; i++) {
        free(simulate_nodes[i].tables.leases.entries);
    }

    simulate_store_destroy(simulate_store);
    free(simulate.events);
    free(simulate_heap);
    free(simulate_questions);

    return rc;
}
