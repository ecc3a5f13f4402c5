
/*
 * Owns the way of a request through the cache: the generation of its
 * workspace, the copies of its body here and in Redis, and, if there is none
 * or it has aged, who fetches the next one.
 *
 * A body is found in the first level, then in Redis.  For a fetch a request
 * first leads the flight of its node, then asks for a lease in Redis, which
 * keeps other nodes from the same, and looks for the body once more behind
 * it: whoever had the lease before has stored it by then.  The workspace,
 * the generation, the server that told it, the namespace and the query bind a
 * body; a copy is used if all are the request's own.
 *
 * While Redis cannot say, the last known generation stands in, and where
 * there is none, a local one that no other level and no other time has.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_digest.h"
#include "ngx_convotic_gzip.h"
#include "ngx_convotic_zone.h"
#include "ngx_convotic_redis.h"
#include "ngx_convotic_records.h"
#include "ngx_convotic_body.h"
#include "ngx_convotic_local.h"
#include "ngx_convotic_flight.h"
#include "ngx_convotic_error.h"
#include "ngx_convotic_cache.h"


/*
 * A generation begins as the server's time in microseconds and has 16 digits
 * until the year 2286.  A shorter one comes of a counter that was lost and
 * counted anew, and could repeat what was used before: it is replaced.
 */
#define NGX_CONVOTIC_CACHE_DIGITS_MIN   16

/* a copy is renewed when less than this part of its time is left */
#define NGX_CONVOTIC_CACHE_AHEAD        10

/*
 * An expired copy is handed out, while it is being renewed, for as long again
 * as it was fresh, and for so long at least; "convotic_cache_stale" bounds it.
 */
#define NGX_CONVOTIC_CACHE_BEHIND       10000   /* ms */

/* a lease ends by itself: its holder may have died */
#define NGX_CONVOTIC_CACHE_LEASE        3000    /* ms */

/* two ages of one body, by two clocks, differ by less */
#define NGX_CONVOTIC_CACHE_SAME         10      /* ms */

/* between two questions for a lease, at first and at last */
#define NGX_CONVOTIC_CACHE_PAUSE        10      /* ms */
#define NGX_CONVOTIC_CACHE_PAUSE_MAX    100     /* ms */

/* the flight of a fill ends by itself this much after the fill would have */
#define NGX_CONVOTIC_CACHE_GRACE        5000    /* ms */

#define NGX_CONVOTIC_CACHE_TOKEN        16      /* digits */

/* digests of names that a worker remembers, and bytes of what they are of */
#define NGX_CONVOTIC_CACHE_NAMES        256
#define NGX_CONVOTIC_CACHE_NAME_LEN     184

/* a gzip form that does not save a tenth is not worth its memory */
#define NGX_CONVOTIC_CACHE_GZIP_MIN     256     /* bytes of a body */


struct ngx_convotic_cache_name_s {
    size_t        ns_len;
    size_t        query_len;         /* never 0 where there is one */
    u_char        text[NGX_CONVOTIC_CACHE_NAME_LEN];
    u_char        hex[NGX_CONVOTIC_HEX_LEN];
};


static ngx_int_t ngx_convotic_cache_namespace(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_uint_t ngx_convotic_cache_is_packable(ngx_http_request_t *r,
    ngx_str_t *content);
static void ngx_convotic_cache_pack(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_convotic_records_e ngx_convotic_cache_known(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx, ngx_convotic_generation_t *known);
static void ngx_convotic_cache_use(ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_cache_ask(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_cache_came(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_cache_offline(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_cache_look(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_uint_t ngx_convotic_cache_is_fresh(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static void ngx_convotic_cache_consider(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx, ngx_convotic_body_t *body);
static void ngx_convotic_cache_take(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static void ngx_convotic_cache_drop(ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_cache_fetch(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_cache_behind(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx, ngx_uint_t failing);
static ngx_int_t ngx_convotic_cache_try(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_cache_failed(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_cache_stale(ngx_convotic_ctx_t *ctx,
    ngx_uint_t confirmed);
static ngx_int_t ngx_convotic_cache_found(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx, ngx_convotic_cache_status_e status);
static ngx_int_t ngx_convotic_cache_answer(ngx_convotic_ctx_t *ctx,
    ngx_convotic_cache_status_e status);
static ngx_int_t ngx_convotic_cache_lease(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_cache_leased(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_cache_lead(ngx_convotic_ctx_t *ctx);
static void ngx_convotic_cache_release(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static void ngx_convotic_cache_unlock(ngx_convotic_main_conf_t *mcf,
    ngx_str_t *lock, ngx_str_t *token);
static void ngx_convotic_cache_timer_handler(ngx_event_t *ev);
static void ngx_convotic_cache_generation_handler(void *data,
    ngx_convotic_resp_t *reply);
static ngx_int_t ngx_convotic_cache_generation(ngx_convotic_ctx_t *ctx,
    ngx_str_t *digits);
static ngx_int_t ngx_convotic_cache_create(ngx_convotic_ctx_t *ctx);
static void ngx_convotic_cache_body_handler(void *data,
    ngx_convotic_resp_t *reply);
static void ngx_convotic_cache_lease_handler(void *data,
    ngx_convotic_resp_t *reply);
static void ngx_convotic_cache_confirm_handler(void *data,
    ngx_convotic_resp_t *reply);
static void ngx_convotic_cache_replied(ngx_convotic_ctx_t *ctx);
static ngx_uint_t ngx_convotic_cache_is_current(ngx_convotic_ctx_t *ctx,
    ngx_convotic_generation_t *known);
static ngx_int_t ngx_convotic_cache_body_name(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_cache_body_hex(ngx_convotic_main_conf_t *mcf,
    ngx_convotic_ctx_t *ctx, u_char *hex);
static ngx_int_t ngx_convotic_cache_fetch_name(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_cache_lock_name(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_cache_generation_name(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx, ngx_str_t *name);


static ngx_str_t  ngx_convotic_cache_create_script = ngx_string(
    "local g = redis.call('GET', KEYS[1]) "
    "if g and (#g >= 16 or not string.match(g, '^%d+$')) then return g end "
    "local t = redis.call('TIME') "
    "g = t[1] .. string.format('%06d', t[2]) "
    "redis.call('SET', KEYS[1], g) "
    "return g");


static ngx_str_t  ngx_convotic_cache_release_script = ngx_string(
    "if redis.call('GET', KEYS[1]) == ARGV[1] then "
    "return redis.call('DEL', KEYS[1]) end "
    "return 0");


ngx_int_t
ngx_convotic_cache_init(ngx_conf_t *cf, ngx_convotic_main_conf_t *mcf)
{
    mcf->names = ngx_pcalloc(cf->pool, NGX_CONVOTIC_CACHE_NAMES
                                       * sizeof(ngx_convotic_cache_name_t));

    return mcf->names ? NGX_OK : NGX_ERROR;
}


ngx_int_t
ngx_convotic_cache_start(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_convotic_woken_e       woken;
    ngx_convotic_loc_conf_t   *conf;
    ngx_convotic_cache_ctx_t  *cache;

    cache = &ctx->cache;

    if (!cache->known) {
        conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);

        cache->status = NGX_CONVOTIC_CACHE_BYPASS;

        if (!conf->cache
            || ngx_http_test_predicates(r, conf->cache_bypass) != NGX_OK)
        {
            cache->detail = "configured";
            return NGX_OK;
        }

        if (ngx_convotic_cache_namespace(r, ctx) != NGX_OK) {
            return NGX_ERROR;
        }

        cache->hash = ngx_convotic_local_hash(ctx);
        cache->known = 1;
    }

    woken = ctx->waiter.woken;
    ctx->waiter.woken = NGX_CONVOTIC_WOKEN_NOT;

    if (woken != NGX_CONVOTIC_WOKEN_NOT) {

        cache->collapsed = 1;

        if (woken == NGX_CONVOTIC_WOKEN_FAILED) {
            return ngx_convotic_cache_failed(r, ctx);
        }

        /* what another has stored meanwhile is to be found */

        cache->asked = 0;
    }

    cache->offline = 0;

    if (ngx_convotic_cache_known(r, ctx, &ctx->known)
        == NGX_CONVOTIC_RECORDS_FRESH)
    {
        ngx_convotic_cache_use(ctx);
        return ngx_convotic_cache_look(r, ctx);
    }

    return ngx_convotic_cache_ask(r, ctx);
}


ngx_int_t
ngx_convotic_cache_done(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    switch (ctx->cache.step) {

    case NGX_CONVOTIC_CACHE_ASKING:
        return ngx_convotic_cache_came(r, ctx);

    case NGX_CONVOTIC_CACHE_LEASING:
        return ngx_convotic_cache_leased(r, ctx);

    case NGX_CONVOTIC_CACHE_PAUSING:
        return ngx_convotic_cache_lease(r, ctx);

    case NGX_CONVOTIC_CACHE_CONFIRMING:
        return ngx_convotic_cache_stale(ctx, ctx->cache.confirmed);

    default: /* NGX_CONVOTIC_CACHE_LOOKING */
        return ngx_convotic_cache_look(r, ctx);
    }
}


ngx_convotic_body_t *
ngx_convotic_cache_body(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx,
    ngx_convotic_body_parts_t *parts, ngx_convotic_body_t *previous)
{
    size_t                     len;
    u_char                    *p;
    ngx_convotic_body_t       *body;
    ngx_convotic_loc_conf_t   *conf;
    ngx_convotic_main_conf_t  *mcf;

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);
    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    parts->workspace = ctx->workspace;
    parts->generation = ctx->cache.generation;
    parts->run_id = ctx->cache.run_id;
    parts->ns = ctx->cache.ns;
    parts->query = ctx->query;

    ngx_str_null(&parts->gzip);
    parts->plain = 0;
    p = NULL;

    if (previous && (previous->gzip.len || previous->plain)) {
        parts->gzip = previous->gzip;
        parts->plain = previous->plain;

    } else if (ngx_convotic_cache_is_packable(r, &parts->content)) {

        len = parts->content.len - parts->content.len / 10;
        p = ngx_alloc(len, r->connection->log);

        if (p && ngx_convotic_gzip_deflate(mcf->gzip, conf->gzip_level,
                                           &parts->content, p, &len)
                 == NGX_OK)
        {
            parts->gzip.data = p;
            parts->gzip.len = len;

        } else {
            parts->plain = 1;
        }
    }

    body = ngx_convotic_body_create(parts, r->connection->log);

    if (p) {
        ngx_free(p);
    }

    return body;
}


/* for the first client that asks for it, and then for all */

static ngx_uint_t
ngx_convotic_cache_is_packable(ngx_http_request_t *r, ngx_str_t *content)
{
    ngx_convotic_loc_conf_t  *conf;

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);

    return conf->gzip && content->len >= NGX_CONVOTIC_CACHE_GZIP_MIN
           && ngx_convotic_gzip_accepted(r);
}


/*
 * The copy at hand was made for a client that did not want it as gzip.  One
 * that is about to be renewed is left as it is: what is stored in its place
 * might be newer.
 */

static void
ngx_convotic_cache_pack(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_msec_t                  age;
    ngx_convotic_body_t        *copy, *body;
    ngx_convotic_body_parts_t   parts;

    copy = ctx->cache.copy;
    age = ngx_convotic_body_age(copy);

    if (age + copy->fresh / NGX_CONVOTIC_CACHE_AHEAD >= copy->fresh
        || !ngx_convotic_cache_is_packable(r, &copy->content))
    {
        return;
    }

    parts.content = copy->content;
    parts.etag = copy->etag;
    parts.headers = copy->headers;
    parts.nheaders = copy->nheaders;
    parts.age = age;
    parts.fresh = copy->fresh - age;
    parts.stale = copy->stale;

    body = ngx_convotic_cache_body(r, ctx, &parts, NULL);

    if (body && ngx_convotic_body_give(body, r->pool) == NGX_OK) {
        ctx->cache.copy = body;
        ngx_convotic_cache_store(r, ctx, body);
    }
}


void
ngx_convotic_cache_store(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx,
    ngx_convotic_body_t *body)
{
    u_char                      px[NGX_INT64_LEN];
    ngx_str_t                   set[5];
    ngx_convotic_main_conf_t   *mcf;
    ngx_convotic_generation_t   known;

    /* what was purged meanwhile would only take the place of a newer one */

    if (ctx->cache.generation.len == 0
        || (ngx_convotic_cache_known(r, ctx, &known)
            == NGX_CONVOTIC_RECORDS_FRESH
            && !ngx_convotic_cache_is_current(ctx, &known)))
    {
        return;
    }

    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    ctx->cache.ttl = ngx_convotic_body_ttl(body);

    if (mcf->local) {
        ngx_convotic_local_store(mcf->local, mcf->zone, ctx, body);
        ctx->cache.stored = 1;
    }

    if (ctx->cache.offline || ngx_convotic_cache_body_name(r, ctx) != NGX_OK)
    {
        return;
    }

    ngx_str_set(&set[0], "SET");
    set[1] = ctx->cache.key;
    set[2] = body->envelope;
    ngx_str_set(&set[3], "PX");
    set[4].data = px;
    set[4].len = ngx_sprintf(px, "%M", body->fresh + body->stale
                                       - ngx_convotic_body_age(body))
                 - px;

    if (ngx_convotic_redis_post(mcf->bodies, 5, set) == NGX_OK) {
        ctx->cache.stored = 1;
    }
}


/* waiters are told after the body was sent to Redis, so that they find it */

void
ngx_convotic_cache_fetched(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx,
    ngx_convotic_answer_t *answer, ngx_uint_t shared)
{
    ngx_convotic_flight_end_e  end;
    ngx_convotic_main_conf_t  *mcf;

    ngx_convotic_cache_release(r, ctx);

    if (ctx->flight == NULL) {
        return;
    }

    if (ctx->cache.denied && answer->copy) {
        end = NGX_CONVOTIC_FLIGHT_ELSEWHERE;

    } else if (answer->copy) {
        end = shared ? NGX_CONVOTIC_FLIGHT_ENDED : NGX_CONVOTIC_FLIGHT_PASS;

    } else if (answer->status >= NGX_HTTP_INTERNAL_SERVER_ERROR) {
        end = NGX_CONVOTIC_FLIGHT_FAILED;

    } else {
        end = NGX_CONVOTIC_FLIGHT_ERROR;
    }

    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    ngx_convotic_flight_end(mcf->flights, ctx, end,
                            shared ? answer->copy : NULL, answer);
}


ngx_int_t
ngx_convotic_cache_confirm(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_str_t                   get[2];
    ngx_convotic_records_e      rc;
    ngx_convotic_main_conf_t   *mcf;
    ngx_convotic_generation_t   known;

    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    if (ctx->cache.offline) {
        return NGX_OK;
    }

    rc = ngx_convotic_cache_known(r, ctx, &known);

    if (rc == NGX_CONVOTIC_RECORDS_FRESH) {
        return ngx_convotic_cache_is_current(ctx, &known) ? NGX_OK
                                                          : NGX_DECLINED;
    }

    ngx_str_set(&get[0], "GET");

    if (ngx_convotic_cache_generation_name(r, ctx, &get[1]) != NGX_OK) {
        return NGX_DECLINED;
    }

    ctx->slots[0] = ngx_convotic_redis_send(mcf->keys, 2, get,
                                         ngx_convotic_cache_confirm_handler,
                                         ctx);
    if (ctx->slots[0]) {
        return NGX_AGAIN;
    }

    return (rc == NGX_CONVOTIC_RECORDS_AGED
            && ngx_convotic_cache_is_current(ctx, &known)) ? NGX_OK
                                                           : NGX_DECLINED;
}


void
ngx_convotic_cache_leave(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_convotic_main_conf_t  *mcf;

    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    if (ctx->cache.timer.timer_set) {
        ngx_del_timer(&ctx->cache.timer);
    }

    ngx_convotic_cache_drop(ctx);
    ngx_convotic_cache_release(r, ctx);
    ngx_convotic_flight_leave(mcf->flights, ctx);
}


/*
 * The configured text and, where they are not given by that and can reach
 * the upstream, the host and the path.  A tab is in none of the parts.
 */

static ngx_int_t
ngx_convotic_cache_namespace(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    u_char                    *p;
    size_t                     len;
    ngx_str_t                 *ns;
    ngx_uint_t                 host;
    ngx_convotic_loc_conf_t   *conf;
    ngx_convotic_main_conf_t  *mcf;

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);
    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    ns = &ctx->cache.ns;
    *ns = conf->cache_namespace;

    host = conf->host_in_namespace && mcf->host_is_read;

    if (!host && !conf->uri_in_namespace) {
        return NGX_OK;
    }

    len = ns->len + 2 + r->headers_in.server.len + 3 * r->uri.len;

    p = ngx_pnalloc(r->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ns->data = p;
    p = ngx_cpymem(p, conf->cache_namespace.data, conf->cache_namespace.len);

    if (host) {
        *p++ = '\t';
        p = ngx_cpymem(p, r->headers_in.server.data,
                       r->headers_in.server.len);
    }

    if (conf->uri_in_namespace) {
        *p++ = '\t';
        p = (u_char *) ngx_escape_uri(p, r->uri.data, r->uri.len,
                                      NGX_ESCAPE_URI);
    }

    ns->len = p - ns->data;

    return NGX_OK;
}


/* what the zone says; only if it is fresh is it to be taken as it is */

static ngx_convotic_records_e
ngx_convotic_cache_known(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx,
    ngx_convotic_generation_t *known)
{
    ngx_convotic_loc_conf_t      *conf;
    ngx_convotic_main_conf_t     *mcf;
    ngx_convotic_records_ages_t   ages;

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);
    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    ages.valid = conf->key_valid;
    ages.stale = conf->key_stale;

    return ngx_convotic_records_generation_lookup(mcf->zone,
                                                ctx->record.workspace_digest,
                                                &ages, known);
}


static void
ngx_convotic_cache_use(ngx_convotic_ctx_t *ctx)
{
    ctx->cache.generation.data = ctx->known.digits;
    ctx->cache.generation.len = ctx->known.digits_len;

    ctx->cache.run_id.data = ctx->known.run_id;
    ctx->cache.run_id.len = ctx->known.run_id_len;
}


/* for the generation; and for the body, if there is none here */

static ngx_int_t
ngx_convotic_cache_ask(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_str_t                  get[2];
    ngx_convotic_main_conf_t  *mcf;

    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    ngx_str_set(&get[0], "GET");

    if (ngx_convotic_cache_generation_name(r, ctx, &get[1]) != NGX_OK) {
        return NGX_ERROR;
    }

    ctx->cache.step = NGX_CONVOTIC_CACHE_ASKING;
    ctx->cache.generation.len = 0;
    ctx->cache.malformed = 0;

    ngx_convotic_records_mark(mcf->zone, ctx->record.workspace_digest,
                              &ctx->cache.mark);

    ctx->slots[0] = ngx_convotic_redis_send(mcf->keys, 2, get,
                                      ngx_convotic_cache_generation_handler,
                                      ctx);
    if (ctx->slots[0] == NULL) {
        return ngx_convotic_cache_offline(r, ctx);
    }

    ctx->cache.waiting = 1;

    if (ctx->cache.asked
        || (mcf->local && ngx_convotic_local_lookup(mcf->local, ctx)))
    {
        return NGX_AGAIN;
    }

    if (ngx_convotic_cache_body_name(r, ctx) != NGX_OK) {
        return NGX_AGAIN;
    }

    get[1] = ctx->cache.key;

    ctx->slots[1] = ngx_convotic_redis_send(mcf->bodies, 2, get,
                                            ngx_convotic_cache_body_handler,
                                            ctx);
    if (ctx->slots[1]) {
        ctx->cache.waiting++;
    }

    ctx->cache.asked = 1;

    return NGX_AGAIN;
}


static ngx_int_t
ngx_convotic_cache_came(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    if (ctx->cache.malformed) {
        ctx->cache.status = NGX_CONVOTIC_CACHE_BYPASS;
        ctx->cache.detail = "redis";
        return NGX_OK;
    }

    if (ctx->cache.generation.len == 0) {
        return ngx_convotic_cache_offline(r, ctx);
    }

    return ngx_convotic_cache_look(r, ctx);
}


/*
 * The generation that was known last, if it was not changed since, and may
 * still be used.  Else one of this worker's own, for as long as nothing is
 * heard of any change: the upstream is to be spared all the same.
 */

static ngx_int_t
ngx_convotic_cache_offline(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_convotic_loc_conf_t    *conf;
    ngx_convotic_generation_t  *known;

    known = &ctx->known;

    if (ngx_convotic_cache_known(r, ctx, known) == NGX_CONVOTIC_RECORDS_NONE) {

        conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);

        if (conf->key_stale == 0) {
            ctx->cache.status = NGX_CONVOTIC_CACHE_BYPASS;
            ctx->cache.detail = "redis";
            return NGX_OK;
        }

        ctx->cache.offline = 1;

        known->run_id[0] = '-';
        known->run_id_len = 1;

        known->digits_len = ngx_snprintf(known->digits,
                                         NGX_CONVOTIC_DIGITS_LEN, "-%uA.%uA",
                                         ctx->cache.mark.epoch,
                                         ctx->cache.mark.changes)
                            - known->digits;
    }

    ngx_convotic_cache_use(ctx);

    return ngx_convotic_cache_look(r, ctx);
}


/* the generation is known; is there a copy? */

static ngx_int_t
ngx_convotic_cache_look(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_str_t                  get[2];
    ngx_convotic_body_t       *body;
    ngx_convotic_main_conf_t  *mcf;
    ngx_convotic_cache_ctx_t  *cache;

    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);
    cache = &ctx->cache;

    cache->step = NGX_CONVOTIC_CACHE_LOOKING;
    cache->copy = NULL;

    body = mcf->local ? ngx_convotic_local_lookup(mcf->local, ctx) : NULL;

    ngx_convotic_cache_consider(r, ctx, body);

    /* what was handed over was fetched for another request like this one */

    body = ctx->waiter.copy;

    if (body && ngx_convotic_body_is_for(body, ctx)) {
        ngx_convotic_cache_consider(r, ctx, body);
    }

    if (ngx_convotic_cache_is_fresh(r, ctx)) {
        return ngx_convotic_cache_found(r, ctx, NGX_CONVOTIC_CACHE_LOCAL);
    }

    if (!cache->asked && !cache->offline
        && ngx_convotic_cache_body_name(r, ctx) == NGX_OK)
    {
        cache->asked = 1;

        ngx_str_set(&get[0], "GET");
        get[1] = cache->key;

        ctx->slots[1] = ngx_convotic_redis_send(mcf->bodies, 2, get,
                                            ngx_convotic_cache_body_handler,
                                            ctx);
        if (ctx->slots[1]) {
            cache->waiting = 1;
            return NGX_AGAIN;
        }
    }

    ngx_convotic_cache_take(r, ctx);

    if (ngx_convotic_cache_is_fresh(r, ctx)) {
        return ngx_convotic_cache_found(r, ctx, NGX_CONVOTIC_CACHE_HIT);
    }

    return ngx_convotic_cache_fetch(r, ctx);
}


/* what came from Redis is as fresh as it says; what was here may be less */

static ngx_uint_t
ngx_convotic_cache_is_fresh(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_convotic_body_t       *body;
    ngx_convotic_main_conf_t  *mcf;

    body = ctx->cache.copy;

    if (body == NULL || ngx_convotic_body_age(body) >= body->fresh) {
        return 0;
    }

    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    return ngx_current_msec - body->since < mcf->local_valid
           || ctx->cache.offline;
}


/*
 * Of two bodies that are for this request, the younger, and of two that are
 * one, the one that came last; the pool holds it.  What it has no memory to
 * hold is no copy.
 */

static void
ngx_convotic_cache_consider(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx,
    ngx_convotic_body_t *body)
{
    ngx_msec_t  age;

    if (body == NULL || body == ctx->cache.copy) {
        return;
    }

    age = ngx_convotic_body_age(body);

    if (age >= body->fresh + body->stale
        || !ngx_convotic_body_is_of(body, &ctx->cache.generation,
                                    &ctx->cache.run_id)
        || (ctx->cache.copy
            && age > ngx_convotic_body_age(ctx->cache.copy)
                     + NGX_CONVOTIC_CACHE_SAME))
    {
        return;
    }

    ngx_convotic_body_hold(body);

    if (ngx_convotic_body_give(body, r->pool) == NGX_OK) {
        ctx->cache.copy = body;
    }
}


/*
 * What came from Redis, if it is the best there is, stays here.  If it is of
 * no use, the request lets go of it: it may be one of many that wait now.
 */

static void
ngx_convotic_cache_take(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_convotic_body_t       *body;
    ngx_convotic_main_conf_t  *mcf;

    body = ctx->cache.arrived;

    if (body == NULL) {
        return;
    }

    ngx_convotic_cache_consider(r, ctx, body);

    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    if (mcf->local && ctx->cache.copy == body) {
        ngx_convotic_local_store(mcf->local, mcf->zone, ctx, body);
    }

    if (ctx->cache.copy == NULL) {
        ctx->cache.detail = "outdated";
    }

    ngx_convotic_cache_drop(ctx);
}


static void
ngx_convotic_cache_drop(ngx_convotic_ctx_t *ctx)
{
    if (ctx->cache.arrived) {
        ngx_convotic_body_release(ctx->cache.arrived);
        ctx->cache.arrived = NULL;
    }
}


static ngx_int_t
ngx_convotic_cache_fetch(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_int_t                   rc;
    ngx_convotic_body_t        *copy;
    ngx_convotic_loc_conf_t    *conf;
    ngx_convotic_main_conf_t   *mcf;
    ngx_convotic_flight_end_e   last;

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);
    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    if (ngx_convotic_cache_fetch_name(r, ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    copy = ctx->cache.copy;

    ctx->cache.status = copy ? NGX_CONVOTIC_CACHE_EXPIRED
                             : NGX_CONVOTIC_CACHE_MISS;

    /* who has waited, and was told to lead in another's place */

    if (ctx->flight) {

        if (ngx_convotic_flight_is(ctx->flight, ctx->fetch)) {
            return ngx_convotic_cache_lease(r, ctx);
        }

        /* but it has been purged meanwhile */

        ngx_convotic_flight_end(mcf->flights, ctx, NGX_CONVOTIC_FLIGHT_ENDED,
                                NULL, NULL);
    }

    if (copy) {
        ctx->cache.ttl = ngx_convotic_body_ttl(copy);

        last = ngx_convotic_flight_last(mcf->flights,
                                        NGX_CONVOTIC_FLIGHT_FILL, ctx->fetch);

        /* an upstream that answers with a 4xx has not failed: it is heard */

        if (last == NGX_CONVOTIC_FLIGHT_FAILED
            || (last == NGX_CONVOTIC_FLIGHT_ENDED
                && ngx_convotic_body_age(copy)
                   < copy->fresh
                     + ngx_max(copy->fresh, NGX_CONVOTIC_CACHE_BEHIND)))
        {
            return ngx_convotic_cache_behind(r, ctx,
                                       last == NGX_CONVOTIC_FLIGHT_FAILED);
        }
    }

    rc = ngx_convotic_flight_join(mcf->flights, ctx, NGX_CONVOTIC_FLIGHT_FILL,
                                  ctx->fetch,
                                  conf->fill_timeout
                                  + NGX_CONVOTIC_CACHE_GRACE,
                                  conf->cache_lock_timeout);

    switch (rc) {

    case NGX_OK:
        return ngx_convotic_cache_lease(r, ctx);

    case NGX_DECLINED:
        return NGX_OK;

    case NGX_BUSY:
        ngx_convotic_error_set(&ctx->answer, NGX_HTTP_SERVICE_UNAVAILABLE);
        ctx->answer.retry_after = NGX_CONVOTIC_RETRY_AFTER;
        ctx->cache.detail = "busy";
        return ngx_convotic_cache_failed(r, ctx);

    default: /* NGX_AGAIN, NGX_ERROR */
        return rc;
    }
}


/* the copy is served at once, whoever renews it */

static ngx_int_t
ngx_convotic_cache_behind(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx,
    ngx_uint_t failing)
{
    ngx_int_t  rc;

    rc = ngx_convotic_cache_try(r, ctx);

    if (rc == NGX_OK) {
        ctx->cache.status = failing ? NGX_CONVOTIC_CACHE_STALE
                                    : NGX_CONVOTIC_CACHE_UPDATING;
        ctx->cache.refresh = 1;

        return ngx_convotic_cache_lease(r, ctx);
    }

    if (rc == NGX_DECLINED) {

        /* what came last was for one only: this one asks for itself */

        return NGX_OK;
    }

    return ngx_convotic_cache_answer(ctx, failing
                                          ? NGX_CONVOTIC_CACHE_STALE
                                          : NGX_CONVOTIC_CACHE_UPDATING);
}


/* to lead the fetch of a copy that is served all the same */

static ngx_int_t
ngx_convotic_cache_try(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_convotic_loc_conf_t   *conf;
    ngx_convotic_main_conf_t  *mcf;

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);
    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    return ngx_convotic_flight_try(mcf->flights, ctx,
                                   NGX_CONVOTIC_FLIGHT_FILL, ctx->fetch,
                                   conf->fill_timeout
                                   + NGX_CONVOTIC_CACHE_GRACE);
}


/* an answer of another's fetch, or none: a stale copy is better */

static ngx_int_t
ngx_convotic_cache_failed(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    if (ctx->answer.status < NGX_HTTP_BAD_REQUEST) {
        return NGX_ERROR;
    }

    if (ctx->answer.status < NGX_HTTP_INTERNAL_SERVER_ERROR
        || ctx->cache.copy == NULL)
    {
        return NGX_DONE;
    }

    switch (ngx_convotic_cache_confirm(r, ctx)) {

    case NGX_OK:
        return ngx_convotic_cache_stale(ctx, 1);

    case NGX_AGAIN:
        ctx->cache.step = NGX_CONVOTIC_CACHE_CONFIRMING;
        return NGX_AGAIN;

    default: /* NGX_DECLINED */
        return ngx_convotic_cache_stale(ctx, 0);
    }
}


/* ctx->answer is an error, which goes out if the copy may not be used */

static ngx_int_t
ngx_convotic_cache_stale(ngx_convotic_ctx_t *ctx, ngx_uint_t confirmed)
{
    if (!confirmed) {
        return NGX_DONE;
    }

    ngx_memzero(&ctx->answer, sizeof(ngx_convotic_answer_t));

    return ngx_convotic_cache_answer(ctx, NGX_CONVOTIC_CACHE_STALE);
}


/* a fresh copy; one of those that find it near its end renews it */

static ngx_int_t
ngx_convotic_cache_found(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx,
    ngx_convotic_cache_status_e status)
{
    ngx_msec_t            left;
    ngx_convotic_body_t  *copy;

    copy = ctx->cache.copy;
    left = copy->fresh - ngx_convotic_body_age(copy);

    ctx->cache.status = status;

    if (ctx->cache.collapsed) {
        ctx->cache.status = NGX_CONVOTIC_CACHE_MISS;

    } else if (left < copy->fresh / NGX_CONVOTIC_CACHE_AHEAD
               && ngx_convotic_cache_fetch_name(r, ctx) == NGX_OK)
    {
        if (ngx_convotic_cache_try(r, ctx) == NGX_OK) {
            ctx->cache.refresh = 1;
            return ngx_convotic_cache_lease(r, ctx);
        }
    }

    return ngx_convotic_cache_answer(ctx, ctx->cache.status);
}


static ngx_int_t
ngx_convotic_cache_answer(ngx_convotic_ctx_t *ctx,
    ngx_convotic_cache_status_e status)
{
    if (ctx->cache.copy->gzip.len == 0 && !ctx->cache.copy->plain) {
        ngx_convotic_cache_pack(ctx->request, ctx);
    }

    ctx->cache.status = status;
    ctx->cache.ttl = ngx_convotic_body_ttl(ctx->cache.copy);

    /* its time may have passed while it was asked for a lease */

    if (ctx->cache.ttl < 0 && (status == NGX_CONVOTIC_CACHE_LOCAL
                               || status == NGX_CONVOTIC_CACHE_HIT))
    {
        ctx->cache.status = NGX_CONVOTIC_CACHE_UPDATING;
    }

    ctx->answer.status = NGX_HTTP_OK;
    ctx->answer.copy = ctx->cache.copy;

    /* who leads, and has found what others wait for */

    if (ctx->flight && !ctx->cache.refresh) {
        ngx_convotic_cache_fetched(ctx->request, ctx, &ctx->answer, 1);
    }

    return NGX_DONE;
}


/* the right to fetch, of all nodes; and the body, behind it */

static ngx_int_t
ngx_convotic_cache_lease(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    u_char                     px[NGX_INT64_LEN];
    u_char                     text[NGX_CONVOTIC_CACHE_TOKEN];
    uint64_t                   abandoned;
    ngx_str_t                  set[6], get[2], dead;
    ngx_convotic_main_conf_t  *mcf;
    ngx_convotic_cache_ctx_t  *cache;

    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);
    cache = &ctx->cache;

    if (cache->offline
        || ngx_convotic_cache_lock_name(r, ctx) != NGX_OK
        || ngx_convotic_cache_body_name(r, ctx) != NGX_OK)
    {
        return ngx_convotic_cache_lead(ctx);
    }

    if (cache->since == 0) {
        cache->since = ngx_current_msec;
    }

    cache->step = NGX_CONVOTIC_CACHE_LEASING;
    cache->denied = 0;

    abandoned = ngx_convotic_flight_abandoned(ctx->flight);

    if (abandoned) {
        dead.data = text;
        dead.len = ngx_sprintf(text, "%016xL", abandoned) - text;

        ngx_convotic_cache_unlock(mcf, &cache->lock, &dead);
    }

    ngx_str_set(&set[0], "SET");
    set[1] = cache->lock;
    set[2] = cache->token;
    ngx_str_set(&set[3], "NX");
    ngx_str_set(&set[4], "PX");
    set[5].data = px;
    set[5].len = ngx_sprintf(px, "%d", NGX_CONVOTIC_CACHE_LEASE) - px;

    ctx->slots[0] = ngx_convotic_redis_send(mcf->bodies, 6, set,
                                            ngx_convotic_cache_lease_handler,
                                            ctx);
    if (ctx->slots[0] == NULL) {
        return ngx_convotic_cache_lead(ctx);
    }

    ngx_convotic_redis_once(ctx->slots[0]);

    cache->leasing = 1;
    cache->waiting = 1;

    ngx_str_set(&get[0], "GET");
    get[1] = cache->key;

    ctx->slots[1] = ngx_convotic_redis_send(mcf->bodies, 2, get,
                                            ngx_convotic_cache_body_handler,
                                            ctx);
    if (ctx->slots[1]) {
        cache->waiting++;
    }

    return NGX_AGAIN;
}


static ngx_int_t
ngx_convotic_cache_leased(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_convotic_body_t       *copy;
    ngx_convotic_loc_conf_t   *conf;
    ngx_convotic_cache_ctx_t  *cache;

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);
    cache = &ctx->cache;

    copy = cache->copy;

    ngx_convotic_cache_take(r, ctx);

    /* another node has fetched it while this one asked */

    if (cache->copy != copy && ngx_convotic_cache_is_fresh(r, ctx)
        && (copy == NULL || ngx_convotic_body_age(cache->copy)
                            + NGX_CONVOTIC_CACHE_SAME
                            < ngx_convotic_body_age(copy)))
    {
        cache->refresh = 0;
        cache->denied = 0;

        return ngx_convotic_cache_answer(ctx, cache->collapsed
                                              ? NGX_CONVOTIC_CACHE_MISS
                                              : NGX_CONVOTIC_CACHE_HIT);
    }

    if (!cache->denied) {
        return ngx_convotic_cache_lead(ctx);
    }

    if (cache->refresh) {
        cache->refresh = 0;

        return ngx_convotic_cache_answer(ctx, cache->status);
    }

    cache->collapsed = 1;

    /* those who wait for this one are to get something of their time */

    if (ngx_current_msec - cache->since >= conf->cache_lock_timeout / 2) {
        cache->denied = 0;
        return ngx_convotic_cache_lead(ctx);
    }

    cache->step = NGX_CONVOTIC_CACHE_PAUSING;

    cache->pause = cache->pause ? ngx_min(2 * cache->pause,
                                          NGX_CONVOTIC_CACHE_PAUSE_MAX)
                                : NGX_CONVOTIC_CACHE_PAUSE;

    cache->timer.handler = ngx_convotic_cache_timer_handler;
    cache->timer.data = ctx;
    cache->timer.log = r->connection->log;

    ngx_add_timer(&cache->timer, cache->pause);

    return NGX_AGAIN;
}


static ngx_int_t
ngx_convotic_cache_lead(ngx_convotic_ctx_t *ctx)
{
    return ctx->cache.refresh
           ? ngx_convotic_cache_answer(ctx, ctx->cache.status)
           : NGX_OK;
}


/* by who holds it only, and not before what was fetched is stored */

static void
ngx_convotic_cache_release(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_convotic_main_conf_t  *mcf;

    /* the reply that is still to come may say that it is ours */

    if (!ctx->cache.leased && !ctx->cache.leasing) {
        return;
    }

    ctx->cache.leased = 0;
    ctx->cache.leasing = 0;

    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    ngx_convotic_cache_unlock(mcf, &ctx->cache.lock, &ctx->cache.token);

    /*
     * Next, the zone forgets the token: whoever comes after this process, if
     * it dies then, could not remove the lease.
     */

    ngx_convotic_redis_hurry(mcf->bodies);
}


static void
ngx_convotic_cache_unlock(ngx_convotic_main_conf_t *mcf, ngx_str_t *lock,
    ngx_str_t *token)
{
    ngx_str_t  eval[5];

    ngx_str_set(&eval[0], "EVAL");
    eval[1] = ngx_convotic_cache_release_script;
    ngx_str_set(&eval[2], "1");
    eval[3] = *lock;
    eval[4] = *token;

    (void) ngx_convotic_redis_post(mcf->bodies, 5, eval);
}


static void
ngx_convotic_cache_timer_handler(ngx_event_t *ev)
{
    ngx_convotic_ctx_t  *ctx = ev->data;

    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, ev->log, 0,
                   "convotic cache timer handler");

    ctx->redis_start = ngx_current_msec;
    ctx->resume(ctx);
}


static void
ngx_convotic_cache_generation_handler(void *data, ngx_convotic_resp_t *reply)
{
    ngx_str_t                  none = ngx_null_string;
    u_char                     text[NGX_CONVOTIC_NAME_LEN + 128];
    ngx_int_t                  rc;
    ngx_convotic_ctx_t        *ctx = data;
    ngx_convotic_main_conf_t  *mcf;

    ctx->slots[0] = NULL;

    mcf = ngx_http_get_module_main_conf(ctx->request, ngx_convotic_module);

    if (reply == NULL) {

        /* a list, say, is no plain integer either; that has been logged */

        ctx->cache.malformed = ngx_convotic_redis_said(mcf->keys,
                                                       "WRONGTYPE");
        ngx_convotic_cache_replied(ctx);
        return;
    }

    switch (reply->type) {

    case NGX_CONVOTIC_RESP_NIL:
        rc = ngx_convotic_cache_generation(ctx, &none);
        break;

    case NGX_CONVOTIC_RESP_STRING:
        rc = ngx_convotic_cache_generation(ctx, &reply->str);
        break;

    default:
        rc = NGX_DECLINED;
    }

    if (rc == NGX_DECLINED) {
        ctx->cache.malformed = 1;

        (void) ngx_slprintf(text, text + sizeof(text),
                            "the generation of workspace \"%V\" is not a "
                            "plain integer: its cache is bypassed%Z",
                            &ctx->workspace);

        ngx_convotic_redis_complain(mcf->keys, "GENERATION", (char *) text);
    }

    ngx_convotic_cache_replied(ctx);
}


/* NGX_DECLINED: it is none; NGX_AGAIN: one is being made */

static ngx_int_t
ngx_convotic_cache_generation(ngx_convotic_ctx_t *ctx, ngx_str_t *digits)
{
    size_t                      i;
    ngx_str_t                  *run_id;
    ngx_convotic_main_conf_t   *mcf;
    ngx_convotic_generation_t  *known;

    if (digits->data == NULL) {
        return ngx_convotic_cache_create(ctx) == NGX_ERROR ? NGX_ERROR
                                                           : NGX_AGAIN;
    }

    if (digits->len == 0 || digits->len > NGX_CONVOTIC_DIGITS_LEN) {
        return NGX_DECLINED;
    }

    for (i = 0; i < digits->len; i++) {
        if (digits->data[i] < '0' || digits->data[i] > '9') {
            return NGX_DECLINED;
        }
    }

    /* Redis could not count on from there */

    if (digits->len == NGX_CONVOTIC_DIGITS_LEN
        && ngx_memcmp(digits->data, "9223372036854775807",
                      NGX_CONVOTIC_DIGITS_LEN)
           >= 0)
    {
        return NGX_DECLINED;
    }

    if (digits->len < NGX_CONVOTIC_CACHE_DIGITS_MIN
        || digits->data[0] == '0')
    {
        return ngx_convotic_cache_create(ctx);
    }

    mcf = ngx_http_get_module_main_conf(ctx->request, ngx_convotic_module);
    run_id = ngx_convotic_redis_run_id(mcf->keys);

    if (run_id->len == 0 || run_id->len > NGX_CONVOTIC_RUN_ID_LEN) {
        return NGX_OK;
    }

    known = &ctx->known;
    ngx_memzero(known, sizeof(ngx_convotic_generation_t));

    known->digits_len = digits->len;
    ngx_memcpy(known->digits, digits->data, digits->len);
    known->run_id_len = run_id->len;
    ngx_memcpy(known->run_id, run_id->data, run_id->len);

    ngx_convotic_records_generation_store(mcf->zone,
                                          ctx->record.workspace_digest,
                                          &ctx->cache.mark, known);
    ngx_convotic_cache_use(ctx);

    return NGX_OK;
}


/* once a request; the reply comes to the same handler */

static ngx_int_t
ngx_convotic_cache_create(ngx_convotic_ctx_t *ctx)
{
    ngx_str_t                  eval[4];
    ngx_http_request_t        *r;
    ngx_convotic_main_conf_t  *mcf;

    if (ctx->cache.created) {
        return NGX_DECLINED;
    }

    ctx->cache.created = 1;

    r = ctx->request;
    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    ngx_str_set(&eval[0], "EVAL");
    eval[1] = ngx_convotic_cache_create_script;
    ngx_str_set(&eval[2], "1");

    if (ngx_convotic_cache_generation_name(r, ctx, &eval[3]) != NGX_OK) {
        return NGX_ERROR;
    }

    ctx->slots[0] = ngx_convotic_redis_send(mcf->keys, 4, eval,
                                      ngx_convotic_cache_generation_handler,
                                      ctx);
    if (ctx->slots[0]) {
        ctx->cache.waiting++;
    }

    return NGX_AGAIN;
}


static void
ngx_convotic_cache_body_handler(void *data, ngx_convotic_resp_t *reply)
{
    ngx_int_t             rc;
    ngx_convotic_ctx_t   *ctx = data;
    ngx_http_request_t   *r;
    ngx_convotic_body_t  *body;

    ctx->slots[1] = NULL;
    r = ctx->request;

    if (reply == NULL || reply->type != NGX_CONVOTIC_RESP_STRING
        || reply->str.len == 0)
    {
        ngx_convotic_cache_replied(ctx);
        return;
    }

    rc = ngx_convotic_body_parse(&reply->str, r->connection->log, &body);

    if (rc == NGX_OK) {

        if (!ngx_convotic_body_is_for(body, ctx)) {
            ngx_convotic_body_release(body);
            ctx->cache.detail = "outdated";
            ngx_convotic_cache_replied(ctx);
            return;
        }

        ngx_convotic_cache_drop(ctx);
        ctx->cache.arrived = body;

    } else if (rc == NGX_DECLINED) {
        ctx->cache.detail = "outdated";

    } else if (rc == NGX_ERROR) {
        ngx_log_error(NGX_LOG_WARN, r->connection->log, 0,
                      "malformed envelope in \"%V\"", &ctx->cache.key);
    }

    ngx_convotic_cache_replied(ctx);
}


static void
ngx_convotic_cache_lease_handler(void *data, ngx_convotic_resp_t *reply)
{
    ngx_convotic_ctx_t  *ctx = data;

    ctx->slots[0] = NULL;
    ctx->cache.leasing = 0;

    if (reply && reply->type == NGX_CONVOTIC_RESP_STATUS) {
        ctx->cache.leased = 1;

    } else if (reply && reply->type == NGX_CONVOTIC_RESP_NIL) {
        ctx->cache.denied = 1;
    }

    ngx_convotic_cache_replied(ctx);
}


static void
ngx_convotic_cache_confirm_handler(void *data, ngx_convotic_resp_t *reply)
{
    ngx_str_t                  *run_id;
    ngx_convotic_ctx_t         *ctx = data;
    ngx_convotic_cache_ctx_t   *cache;
    ngx_convotic_main_conf_t   *mcf;
    ngx_convotic_generation_t   known;

    ctx->slots[0] = NULL;

    cache = &ctx->cache;
    mcf = ngx_http_get_module_main_conf(ctx->request, ngx_convotic_module);
    run_id = ngx_convotic_redis_run_id(mcf->keys);

    if (reply == NULL) {
        cache->confirmed = (ngx_convotic_cache_known(ctx->request, ctx,
                                                     &known)
                            != NGX_CONVOTIC_RECORDS_NONE
                            && ngx_convotic_cache_is_current(ctx, &known));

    } else {
        cache->confirmed = (reply->type == NGX_CONVOTIC_RESP_STRING
                            && reply->str.len == cache->generation.len
                            && ngx_memcmp(reply->str.data,
                                          cache->generation.data,
                                          reply->str.len)
                               == 0
                            && run_id->len == cache->run_id.len
                            && ngx_memcmp(run_id->data, cache->run_id.data,
                                          run_id->len)
                               == 0);
    }

    ctx->resume(ctx);
}


static void
ngx_convotic_cache_replied(ngx_convotic_ctx_t *ctx)
{
    if (--ctx->cache.waiting == 0) {
        ctx->resume(ctx);
    }
}


static ngx_uint_t
ngx_convotic_cache_is_current(ngx_convotic_ctx_t *ctx,
    ngx_convotic_generation_t *known)
{
    return known->digits_len == ctx->cache.generation.len
           && ngx_memcmp(known->digits, ctx->cache.generation.data,
                         known->digits_len)
              == 0
           && known->run_id_len == ctx->cache.run_id.len
           && ngx_memcmp(known->run_id, ctx->cache.run_id.data,
                         known->run_id_len)
              == 0;
}


/* convotic:body:v1:{workspace}:<digest of namespace and query>, once */

static ngx_int_t
ngx_convotic_cache_body_name(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    u_char                    *p, hex[NGX_CONVOTIC_HEX_LEN];
    ngx_convotic_main_conf_t  *mcf;

    if (ctx->cache.key.len) {
        return NGX_OK;
    }

    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    if (ngx_convotic_cache_body_hex(mcf, ctx, hex) != NGX_OK) {
        return NGX_ERROR;
    }

    p = ngx_pnalloc(r->pool, mcf->prefix.len + sizeof("body:v1:{}:")
                             + ctx->workspace.len + NGX_CONVOTIC_HEX_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ctx->cache.key.data = p;

    p = ngx_sprintf(p, "%Vbody:v1:{%V}:%*s", &mcf->prefix, &ctx->workspace,
                    (size_t) NGX_CONVOTIC_HEX_LEN, hex);

    ctx->cache.key.len = p - ctx->cache.key.data;

    return NGX_OK;
}


/* the same few are asked for all the time: their digests are remembered */

static ngx_int_t
ngx_convotic_cache_body_hex(ngx_convotic_main_conf_t *mcf,
    ngx_convotic_ctx_t *ctx, u_char *hex)
{
    ngx_str_t                   parts[3], *ns, *query;
    ngx_convotic_cache_name_t  *name;

    ns = &ctx->cache.ns;
    query = &ctx->query;

    name = &mcf->names[ctx->cache.hash % NGX_CONVOTIC_CACHE_NAMES];

    if (name->ns_len == ns->len && name->query_len == query->len
        && ngx_memcmp(name->text, ns->data, ns->len) == 0
        && ngx_memcmp(name->text + ns->len, query->data, query->len) == 0)
    {
        ngx_memcpy(hex, name->hex, NGX_CONVOTIC_HEX_LEN);
        return NGX_OK;
    }

    /* neither part can have a line's end: one text, one pair */

    parts[0] = *ns;
    ngx_str_set(&parts[1], "\n");
    parts[2] = *query;

    if (ngx_convotic_digest_hex(mcf->digest, parts, 3, hex) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ns->len + query->len <= sizeof(name->text)) {
        name->ns_len = ns->len;
        name->query_len = query->len;

        ngx_memcpy(name->text, ns->data, ns->len);
        ngx_memcpy(name->text + ns->len, query->data, query->len);
        ngx_memcpy(name->hex, hex, NGX_CONVOTIC_HEX_LEN);
    }

    return NGX_OK;
}


/* of all that a fetch is for: another generation is another fetch */

static ngx_int_t
ngx_convotic_cache_fetch_name(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_str_t                  parts[9], *part, line = ngx_string("\n");
    ngx_convotic_main_conf_t  *mcf;

    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    part = parts;

    *part++ = ctx->workspace;
    *part++ = line;
    *part++ = ctx->cache.generation;
    *part++ = line;
    *part++ = ctx->cache.run_id;
    *part++ = line;
    *part++ = ctx->cache.ns;
    *part++ = line;
    *part++ = ctx->query;

    return ngx_convotic_digest(mcf->digest, parts, part - parts, ctx->fetch);
}


/* convotic:lock:v1:{workspace}:<name of the fetch> */

static ngx_int_t
ngx_convotic_cache_lock_name(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    u_char                    *p, hex[NGX_CONVOTIC_HEX_LEN];
    ngx_convotic_main_conf_t  *mcf;

    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    p = ngx_pnalloc(r->pool, mcf->prefix.len + sizeof("lock:v1:{}:")
                             + ctx->workspace.len + NGX_CONVOTIC_HEX_LEN
                             + NGX_CONVOTIC_CACHE_TOKEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ngx_hex_dump(hex, ctx->fetch, NGX_CONVOTIC_DIGEST_LEN);

    ctx->cache.lock.data = p;
    p = ngx_sprintf(p, "%Vlock:v1:{%V}:%*s", &mcf->prefix, &ctx->workspace,
                    (size_t) NGX_CONVOTIC_HEX_LEN, hex);
    ctx->cache.lock.len = p - ctx->cache.lock.data;

    ctx->cache.token.data = p;
    p = ngx_sprintf(p, "%016xL", ngx_convotic_flight_token(ctx->flight));
    ctx->cache.token.len = p - ctx->cache.token.data;

    return NGX_OK;
}


static ngx_int_t
ngx_convotic_cache_generation_name(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx, ngx_str_t *name)
{
    ngx_convotic_main_conf_t  *mcf;

    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    name->data = ngx_pnalloc(r->pool, mcf->prefix.len + sizeof("gen:{}")
                                      + ctx->workspace.len);
    if (name->data == NULL) {
        return NGX_ERROR;
    }

    name->len = ngx_sprintf(name->data, "%Vgen:{%V}", &mcf->prefix,
                            &ctx->workspace)
                - name->data;

    return NGX_OK;
}
