
/*
 * Owns the verdict on a request's rate: what is spent from the lease without
 * further ado, the questions to Redis for more, who waits for them, and what
 * happens when Redis does not answer.
 *
 * A question belongs to no request: what was leased is the key's, whoever
 * leaves meanwhile.  There is one at a time for a key and node; requests of
 * another worker than the one that asks look at the zone every 2 ms.  Who has
 * waited is woken once, with its verdict.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_digits.h"
#include "ngx_convotic_digest.h"
#include "ngx_convotic_headers.h"
#include "ngx_convotic_waiters.h"
#include "ngx_convotic_zone.h"
#include "ngx_convotic_redis.h"
#include "ngx_convotic_leases.h"
#include "ngx_convotic_error.h"
#include "ngx_convotic_limit.h"

#include <ngx_sha1.h>


#define NGX_CONVOTIC_LIMIT_POLL      2       /* ms */

#define NGX_CONVOTIC_LIMIT_SHA1_LEN  20

/* as much of the server's run_id as tells one from another */
#define NGX_CONVOTIC_LIMIT_RUN_ID    16

/* "default";q=N;w=60 */
#define NGX_CONVOTIC_LIMIT_FIELD     (sizeof("\"default\";q=;w=60")            \
                                      + NGX_CONVOTIC_DIGITS_MAX)


typedef struct {
    ngx_str_node_t               node;       /* by the digest */
    ngx_queue_t                  remote;     /* of those another worker asks */
    ngx_queue_t                  waiters;
    ngx_convotic_limits_t       *limits;
    ngx_convotic_leases_ask_t    ask;
    ngx_uint_t                   is_remote;
    ngx_uint_t                   evaled;     /* the script was sent with it */
    ngx_uint_t                   again;      /* the connection was lost */
    u_char                       digest[NGX_CONVOTIC_DIGEST_LEN];
} ngx_convotic_limit_question_t;


struct ngx_convotic_limits_s {
    ngx_convotic_zone_t         *zone;
    ngx_convotic_redis_t        *redis;
    ngx_convotic_waiters_t      *waiters;
    ngx_str_t                    prefix;
    u_char                       sha1[2 * NGX_CONVOTIC_LIMIT_SHA1_LEN];

    /* a worker's */

    ngx_rbtree_t                 tree;
    ngx_rbtree_node_t            sentinel;
    ngx_queue_t                  remote;
    ngx_event_t                  poll;
    ngx_log_t                   *log;
};


static ngx_int_t ngx_convotic_limit_wait(ngx_convotic_limits_t *limits,
    ngx_convotic_ctx_t *ctx);
static void ngx_convotic_limit_ahead(ngx_convotic_limits_t *limits,
    ngx_convotic_ctx_t *ctx);
static ngx_convotic_limit_question_t *ngx_convotic_limit_find(
    ngx_convotic_limits_t *limits, const u_char *digest);
static ngx_convotic_limit_question_t *ngx_convotic_limit_insert(
    ngx_convotic_limits_t *limits, const u_char *digest);
static void ngx_convotic_limit_remove(ngx_convotic_limit_question_t *question);
static ngx_int_t ngx_convotic_limit_put(
    ngx_convotic_limit_question_t *question, ngx_uint_t limit);
static ngx_int_t ngx_convotic_limit_send(
    ngx_convotic_limit_question_t *question, ngx_uint_t eval);
static void ngx_convotic_limit_handler(void *data,
    ngx_convotic_resp_t *reply);
static ngx_int_t ngx_convotic_limit_resend(
    ngx_convotic_limit_question_t *question);
static void ngx_convotic_limit_told(ngx_convotic_limit_question_t *question,
    ngx_convotic_leases_told_t *told);
static void ngx_convotic_limit_settle(
    ngx_convotic_limit_question_t *question);
static void ngx_convotic_limit_poll_handler(ngx_event_t *ev);
static ngx_int_t ngx_convotic_limit_over(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_limit_unsure(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_limit_documented(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_limit_draft(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);


ngx_convotic_limits_t *
ngx_convotic_limit_create(ngx_conf_t *cf, ngx_convotic_main_conf_t *mcf)
{
    u_char                  value[NGX_CONVOTIC_LIMIT_SHA1_LEN];
    ngx_sha1_t              sha1;
    ngx_convotic_limits_t  *limits;

    limits = ngx_pcalloc(cf->pool, sizeof(ngx_convotic_limits_t));
    if (limits == NULL) {
        return NULL;
    }

    limits->zone = mcf->zone;
    limits->redis = mcf->keys;
    limits->waiters = mcf->waiters;
    limits->prefix = mcf->prefix;

    ngx_sha1_init(&sha1);
    ngx_sha1_update(&sha1, ngx_convotic_leases_script.data,
                    ngx_convotic_leases_script.len);
    ngx_sha1_final(value, &sha1);

    ngx_hex_dump(limits->sha1, value, NGX_CONVOTIC_LIMIT_SHA1_LEN);

    ngx_rbtree_init(&limits->tree, &limits->sentinel,
                    ngx_str_rbtree_insert_value);
    ngx_queue_init(&limits->remote);

    return limits;
}


void
ngx_convotic_limit_start_worker(ngx_convotic_limits_t *limits,
    ngx_cycle_t *cycle)
{
    limits->log = cycle->log;

    limits->poll.handler = ngx_convotic_limit_poll_handler;
    limits->poll.data = limits;
    limits->poll.log = cycle->log;
}


ngx_int_t
ngx_convotic_limit_start(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_convotic_leases_e      rc;
    ngx_convotic_loc_conf_t   *conf;
    ngx_convotic_main_conf_t  *mcf;

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);

    if (conf->rate == 0) {
        return NGX_OK;
    }

    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    ctx->rate.limit = ctx->record.rate ? ctx->record.rate : conf->rate;

    rc = ngx_convotic_leases_spend(mcf->zone, ctx->key_digest,
                                   ctx->rate.limit, &ctx->rate.allowance);
    switch (rc) {

    case NGX_CONVOTIC_LEASES_LOW:
        ngx_convotic_limit_ahead(mcf->limits, ctx);

        /* fall through */

    case NGX_CONVOTIC_LEASES_SPENT:
        return NGX_OK;

    case NGX_CONVOTIC_LEASES_OVER:
        return ngx_convotic_limit_over(r, ctx);

    default: /* NGX_CONVOTIC_LEASES_NONE */
        return ngx_convotic_limit_wait(mcf->limits, ctx);
    }
}


ngx_int_t
ngx_convotic_limit_done(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    switch (ctx->rate.verdict) {

    case NGX_CONVOTIC_LIMIT_ADMITTED:
        return NGX_OK;

    case NGX_CONVOTIC_LIMIT_OVER:
        return ngx_convotic_limit_over(r, ctx);

    default: /* NGX_CONVOTIC_LIMIT_UNSURE */
        return ngx_convotic_limit_unsure(r, ctx);
    }
}


/* for the answer to a question of this worker's, or of another's */

static ngx_int_t
ngx_convotic_limit_wait(ngx_convotic_limits_t *limits,
    ngx_convotic_ctx_t *ctx)
{
    ngx_uint_t                      is_new;
    ngx_convotic_limit_question_t  *question;

    question = ngx_convotic_limit_find(limits, ctx->key_digest);

    is_new = (question == NULL);

    if (is_new) {
        question = ngx_convotic_limit_insert(limits, ctx->key_digest);
        if (question == NULL) {
            return NGX_ERROR;
        }
    }

    ngx_convotic_waiters_add(&question->waiters, ctx);

    if (is_new) {
        ngx_convotic_limit_settle(question);
    }

    return NGX_AGAIN;
}


/* nobody waits for that, and so nobody is told of a failure */

static void
ngx_convotic_limit_ahead(ngx_convotic_limits_t *limits,
    ngx_convotic_ctx_t *ctx)
{
    ngx_convotic_limit_question_t  *question;

    if (ngx_convotic_limit_find(limits, ctx->key_digest)) {
        return;
    }

    question = ngx_convotic_limit_insert(limits, ctx->key_digest);

    if (question
        && ngx_convotic_limit_put(question, ctx->rate.limit) != NGX_OK)
    {
        ngx_convotic_limit_remove(question);
    }
}


static ngx_convotic_limit_question_t *
ngx_convotic_limit_find(ngx_convotic_limits_t *limits, const u_char *digest)
{
    ngx_str_t  name;

    name.len = NGX_CONVOTIC_DIGEST_LEN;
    name.data = (u_char *) digest;

    return (ngx_convotic_limit_question_t *)
               ngx_str_rbtree_lookup(&limits->tree, &name,
                                     ngx_convotic_digest_hash(digest));
}


static ngx_convotic_limit_question_t *
ngx_convotic_limit_insert(ngx_convotic_limits_t *limits,
    const u_char *digest)
{
    ngx_convotic_limit_question_t  *question;

    question = ngx_alloc(sizeof(ngx_convotic_limit_question_t), limits->log);
    if (question == NULL) {
        return NULL;
    }

    question->limits = limits;
    question->is_remote = 0;

    ngx_memcpy(question->digest, digest, NGX_CONVOTIC_DIGEST_LEN);

    question->node.str.len = NGX_CONVOTIC_DIGEST_LEN;
    question->node.str.data = question->digest;
    question->node.node.key = ngx_convotic_digest_hash(digest);

    ngx_queue_init(&question->waiters);
    ngx_rbtree_insert(&limits->tree, &question->node.node);

    return question;
}


static void
ngx_convotic_limit_remove(ngx_convotic_limit_question_t *question)
{
    if (question->is_remote) {
        ngx_queue_remove(&question->remote);
    }

    ngx_rbtree_delete(&question->limits->tree, &question->node.node);
    ngx_free(question);
}


/*
 * NGX_OK: the handler will be called; NGX_AGAIN: there is something to spend;
 * NGX_BUSY: another worker asks; NGX_DECLINED: Redis is not there.
 */

static ngx_int_t
ngx_convotic_limit_put(ngx_convotic_limit_question_t *question,
    ngx_uint_t limit)
{
    ngx_int_t               rc;
    ngx_convotic_limits_t  *limits;

    limits = question->limits;

    /* other workers have connections of their own */

    if (ngx_convotic_redis_is_away(limits->redis)) {
        return NGX_DECLINED;
    }

    rc = ngx_convotic_leases_claim(limits->zone, question->digest, limit,
                                   &question->ask);
    if (rc != NGX_OK) {
        return rc;
    }

    question->again = 0;

    if (ngx_convotic_limit_send(question, 0) == NGX_OK) {
        return NGX_OK;
    }

    ngx_convotic_zone_count(limits->zone, NGX_CONVOTIC_COUNT_LEASE_FAILED);
    ngx_convotic_leases_fail(limits->zone, &question->ask);

    return NGX_DECLINED;
}


/* eval: the server does not have the script yet */

static ngx_int_t
ngx_convotic_limit_send(ngx_convotic_limit_question_t *question,
    ngx_uint_t eval)
{
    u_char                      digits[NGX_CONVOTIC_LEASES_DIGITS];
    u_char                     *p, *name;
    ngx_str_t                   argv[4 + NGX_CONVOTIC_LEASES_ARGC], run_id;
    ngx_convotic_limits_t      *limits;
    ngx_convotic_redis_slot_t  *slot;

    limits = question->limits;
    question->evaled = eval;

    if (eval) {
        ngx_str_set(&argv[0], "EVAL");
        argv[1] = ngx_convotic_leases_script;

    } else {
        ngx_str_set(&argv[0], "EVALSHA");
        argv[1].data = limits->sha1;
        argv[1].len = sizeof(limits->sha1);
    }

    name = ngx_alloc(limits->prefix.len + sizeof("rate:v1:") - 1
                     + NGX_CONVOTIC_HEX_LEN, limits->log);
    if (name == NULL) {
        return NGX_ERROR;
    }

    p = ngx_cpymem(name, limits->prefix.data, limits->prefix.len);
    p = ngx_cpymem(p, "rate:v1:", sizeof("rate:v1:") - 1);
    p = ngx_hex_dump(p, question->digest, NGX_CONVOTIC_DIGEST_LEN);

    ngx_str_set(&argv[2], "1");
    argv[3].data = name;
    argv[3].len = p - name;

    /* which server a connection will lead to is not known before it stands */

    ngx_str_null(&run_id);

    if (ngx_convotic_redis_is_ready(limits->redis)) {
        run_id = *ngx_convotic_redis_run_id(limits->redis);
        run_id.len = ngx_min(run_id.len, NGX_CONVOTIC_LIMIT_RUN_ID);
    }

    ngx_convotic_leases_arguments(&question->ask, &run_id, digits, &argv[4]);

    slot = ngx_convotic_redis_send(limits->redis,
                                   4 + NGX_CONVOTIC_LEASES_ARGC, argv,
                                   ngx_convotic_limit_handler, question);
    ngx_free(name);

    if (slot == NULL) {
        return NGX_ERROR;
    }

    ngx_convotic_redis_once(slot);

    return NGX_OK;
}


static void
ngx_convotic_limit_handler(void *data, ngx_convotic_resp_t *reply)
{
    ngx_convotic_limits_t          *limits;
    ngx_convotic_leases_told_t      told;
    ngx_convotic_limit_question_t  *question = data;

    limits = question->limits;

    if (reply == NULL && ngx_convotic_limit_resend(question) == NGX_OK) {
        return;
    }

    if (reply
        && ngx_convotic_leases_parse(&question->ask, reply, &told) == NGX_OK)
    {
        ngx_convotic_limit_told(question, &told);

    } else {
        if (reply) {
            ngx_convotic_redis_complain(limits->redis, "RATE",
                             "it answered the script of rates with something "
                             "else");
        }

        ngx_convotic_zone_count(limits->zone,
                                NGX_CONVOTIC_COUNT_LEASE_FAILED);
        ngx_convotic_leases_fail(limits->zone, &question->ask);
    }

    ngx_convotic_limit_settle(question);
}


/*
 * To a server that does not have the script; or to the one that is connected
 * to next, as it is to be told what is true then.
 */

static ngx_int_t
ngx_convotic_limit_resend(ngx_convotic_limit_question_t *question)
{
    ngx_convotic_redis_t  *redis;

    redis = question->limits->redis;

    if (!question->evaled && ngx_convotic_redis_said(redis, "NOSCRIPT")) {
        return ngx_convotic_limit_send(question, 1);
    }

    if (!question->again && !ngx_terminate
        && !ngx_convotic_redis_is_ready(redis))
    {
        question->again = 1;
        return ngx_convotic_limit_send(question, question->evaled);
    }

    return NGX_ERROR;
}


static void
ngx_convotic_limit_told(ngx_convotic_limit_question_t *question,
    ngx_convotic_leases_told_t *told)
{
    u_char                  hex[NGX_CONVOTIC_HEX_LEN];
    ngx_uint_t              over;
    ngx_convotic_limits_t  *limits;

    limits = question->limits;

    ngx_convotic_zone_count(limits->zone, told->granted
                                          ? NGX_CONVOTIC_COUNT_LEASE_GRANTED
                                          : NGX_CONVOTIC_COUNT_LEASE_EMPTY);

    over = ngx_convotic_leases_bank(limits->zone, &question->ask, told);

    if (over) {
        ngx_hex_dump(hex, question->digest, NGX_CONVOTIC_DIGEST_LEN);

        ngx_log_error(NGX_LOG_NOTICE, limits->log, 0,
                      "nothing is left of the rate of key %*s..., %ui a "
                      "minute, for the next %M ms", (size_t) 12, hex,
                      question->ask.limit, told->rest);
    }
}


/* verdicts for as many as can be given one; the rest waits for more */

static void
ngx_convotic_limit_settle(ngx_convotic_limit_question_t *question)
{
    ngx_int_t               rc;
    ngx_convotic_ctx_t     *ctx;
    ngx_convotic_limits_t  *limits;
    ngx_convotic_leases_e   found;

    limits = question->limits;
    rc = NGX_OK;

    while (!ngx_queue_empty(&question->waiters)) {

        ctx = ngx_convotic_waiters_first(&question->waiters);

        found = ngx_convotic_leases_spend(limits->zone, question->digest,
                                          ctx->rate.limit,
                                          &ctx->rate.allowance);

        if (found != NGX_CONVOTIC_LEASES_NONE) {
            ctx->rate.verdict = (found == NGX_CONVOTIC_LEASES_OVER)
                                ? NGX_CONVOTIC_LIMIT_OVER
                                : NGX_CONVOTIC_LIMIT_ADMITTED;

            ngx_convotic_waiters_wake(limits->waiters, ctx);
            continue;
        }

        rc = ngx_convotic_limit_put(question, ctx->rate.limit);

        if (rc == NGX_AGAIN) {
            continue;
        }

        if (rc != NGX_DECLINED) {
            break;
        }

        ctx->rate.verdict = NGX_CONVOTIC_LIMIT_UNSURE;
        ngx_convotic_waiters_wake(limits->waiters, ctx);
    }

    if (ngx_queue_empty(&question->waiters)) {
        ngx_convotic_limit_remove(question);
        return;
    }

    /* NGX_OK, NGX_BUSY */

    if (rc == NGX_BUSY && !question->is_remote) {
        question->is_remote = 1;
        ngx_queue_insert_tail(&limits->remote, &question->remote);

    } else if (rc == NGX_OK && question->is_remote) {
        question->is_remote = 0;
        ngx_queue_remove(&question->remote);
    }

    if (question->is_remote && !limits->poll.timer_set) {
        ngx_add_timer(&limits->poll, NGX_CONVOTIC_LIMIT_POLL);
    }
}


static void
ngx_convotic_limit_poll_handler(ngx_event_t *ev)
{
    ngx_queue_t                    *q, *next;
    ngx_convotic_limits_t          *limits;
    ngx_convotic_limit_question_t  *question;

    limits = ev->data;

    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, ev->log, 0,
                   "convotic limit poll handler");

    for (q = ngx_queue_head(&limits->remote);
         q != ngx_queue_sentinel(&limits->remote);
         q = next)
    {
        next = ngx_queue_next(q);
        question = ngx_queue_data(q, ngx_convotic_limit_question_t, remote);

        ngx_convotic_limit_settle(question);
    }
}


static ngx_int_t
ngx_convotic_limit_over(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_convotic_loc_conf_t   *conf;
    ngx_convotic_main_conf_t  *mcf;

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);
    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    ctx->rate.allowance.remaining = 0;

    ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                  "key \"%V\" is over its rate of %ui a minute%s",
                  &ctx->key_id, ctx->rate.limit,
                  conf->rate_dry_run ? ", dry run" : "");

    ngx_convotic_zone_count(mcf->zone, conf->rate_dry_run
                                       ? NGX_CONVOTIC_COUNT_RATE_DRY_RUN
                                       : NGX_CONVOTIC_COUNT_RATE_REFUSED);
    if (conf->rate_dry_run) {
        return NGX_OK;
    }

    ngx_convotic_error_limited(r->pool, &ctx->answer,
                               ctx->rate.allowance.rest);

    return NGX_DONE;
}


/* Redis does not answer: what is admitted now is a debt */

static ngx_int_t
ngx_convotic_limit_unsure(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_int_t                  rc;
    ngx_uint_t                 share;
    ngx_convotic_loc_conf_t   *conf;
    ngx_convotic_main_conf_t  *mcf;

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);
    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    switch (conf->rate_fallback) {

    case NGX_CONVOTIC_RATE_OPEN:
        share = NGX_CONVOTIC_LEASES_ANY;
        break;

    case NGX_CONVOTIC_RATE_CLOSED:
        share = conf->rate_dry_run ? NGX_CONVOTIC_LEASES_ANY : 0;
        break;

    default: /* NGX_CONVOTIC_RATE_LOCAL */
        share = conf->rate_share ? conf->rate_share
                                 : ngx_max(ctx->rate.limit / 4, 1);
    }

    rc = ngx_convotic_leases_borrow(mcf->zone, ctx->key_digest,
                                    ctx->rate.limit, share,
                                    &ctx->rate.allowance);
    if (rc == NGX_OK) {
        ngx_convotic_zone_count(mcf->zone,
                                NGX_CONVOTIC_COUNT_RATE_UNVERIFIED);
        return NGX_OK;
    }

    if (rc == NGX_ABORT
        || conf->rate_fallback != NGX_CONVOTIC_RATE_CLOSED)
    {
        return ngx_convotic_limit_over(r, ctx);
    }

    ngx_convotic_zone_count(mcf->zone, NGX_CONVOTIC_COUNT_RATE_UNSURE);

    ngx_convotic_error_set(&ctx->answer, NGX_HTTP_SERVICE_UNAVAILABLE);
    ctx->answer.retry_after = NGX_CONVOTIC_RETRY_AFTER;

    return NGX_DONE;
}


ngx_int_t
ngx_convotic_limit_headers(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_convotic_loc_conf_t  *conf;

    if (ctx->rate.limit == 0) {
        return NGX_OK;
    }

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);

    ctx->rate.told = 1;

    if ((conf->rate_headers & NGX_CONVOTIC_RATE_DRAFT)
        && ngx_convotic_limit_draft(r, ctx) != NGX_OK)
    {
        return NGX_ERROR;
    }

    return (conf->rate_headers & NGX_CONVOTIC_RATE_DOCUMENTED)
           ? ngx_convotic_limit_documented(r, ctx) : NGX_OK;
}


static ngx_int_t
ngx_convotic_limit_documented(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    u_char                   *last;
    ngx_str_t                 value;
    ngx_convotic_loc_conf_t  *conf;

    static ngx_str_t  limit = ngx_string("X-RateLimit-Limit");
    static ngx_str_t  remaining = ngx_string("X-RateLimit-Remaining");

    last = ngx_pnalloc(r->pool, 2 * NGX_CONVOTIC_DIGITS_MAX);
    if (last == NULL) {
        return NGX_ERROR;
    }

    last += NGX_CONVOTIC_DIGITS_MAX;

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);

    if (ctx->rate.limit == conf->rate) {
        value = conf->rate_text;

    } else {
        value.data = ngx_convotic_digits_before(last, ctx->rate.limit);
        value.len = last - value.data;
    }

    if (ngx_convotic_headers_push(r, &limit, &value, NULL) != NGX_OK) {
        return NGX_ERROR;
    }

    last += NGX_CONVOTIC_DIGITS_MAX;

    value.data = ngx_convotic_digits_before(last,
                                            ctx->rate.allowance.remaining);
    value.len = last - value.data;

    return ngx_convotic_headers_push(r, &remaining, &value, NULL);
}


/* draft-ietf-httpapi-ratelimit-headers-10 */

static ngx_int_t
ngx_convotic_limit_draft(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    u_char     *p;
    ngx_str_t   value;

    static ngx_str_t  policy = ngx_string("RateLimit-Policy");
    static ngx_str_t  limit = ngx_string("RateLimit");

    p = ngx_pnalloc(r->pool, 2 * NGX_CONVOTIC_LIMIT_FIELD);
    if (p == NULL) {
        return NGX_ERROR;
    }

    value.data = p;
    p = ngx_sprintf(p, "\"default\";q=%ui;w=60", ctx->rate.limit);
    value.len = p - value.data;

    if (ngx_convotic_headers_push(r, &policy, &value, NULL) != NGX_OK) {
        return NGX_ERROR;
    }

    value.data = p;
    p = ngx_sprintf(p, "\"default\";r=%ui;t=%T",
                    ctx->rate.allowance.remaining,
                    ngx_convotic_error_seconds(ctx->rate.allowance.rest));
    value.len = p - value.data;

    return ngx_convotic_headers_push(r, &limit, &value, NULL);
}
