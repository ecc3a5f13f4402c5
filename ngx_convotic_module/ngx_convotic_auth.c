
/*
 * Owns the verdict on an API key: the header, the look-up of its digest in
 * the zone and in Redis, and the reading of the record, field by field.  The
 * key itself is never logged, stored or sent.
 *
 * There are three verdicts.  Valid and denied take a whole, well-formed
 * answer of a store that has convotic:meta; everything else is unsure, and
 * then what was known last may still do, for "convotic_key_stale".
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_digest.h"
#include "ngx_convotic_headers.h"
#include "ngx_convotic_zone.h"
#include "ngx_convotic_redis.h"
#include "ngx_convotic_records.h"
#include "ngx_convotic_addresses.h"
#include "ngx_convotic_flight.h"
#include "ngx_convotic_error.h"
#include "ngx_convotic_auth.h"


#define NGX_CONVOTIC_AUTH_KEY_MAX      256

/* the year 9999: a later second is a number of something else */
#define NGX_CONVOTIC_AUTH_EXPIRES_MAX  253402300799LL

#define NGX_CONVOTIC_AUTH_TEXT_MAX     1024

/* how often it is waited for one */
#define NGX_CONVOTIC_AUTH_TURNS        2

/* who looks a key up is not waited for any longer: Redis answers or fails */
#define NGX_CONVOTIC_AUTH_WAIT         5000    /* ms */


typedef ngx_int_t (*ngx_convotic_auth_field_pt)(ngx_convotic_ctx_t *ctx,
    ngx_str_t *value);

typedef struct {
    ngx_str_t                    name;
    ngx_uint_t                   required;
    ngx_convotic_auth_field_pt   judge;
} ngx_convotic_auth_field_t;


static ngx_convotic_records_e ngx_convotic_auth_lookup(
    ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_auth_fetch(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx, ngx_convotic_woken_e woken);
static void ngx_convotic_auth_end(ngx_convotic_main_conf_t *mcf,
    ngx_convotic_ctx_t *ctx, ngx_convotic_flight_end_e end);
static ngx_int_t ngx_convotic_auth_charge(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static void ngx_convotic_auth_settle(ngx_convotic_ctx_t *ctx,
    ngx_uint_t denied);
static ngx_int_t ngx_convotic_auth_ask(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_auth_identify(ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_auth_header(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx, ngx_str_t *key);
static ngx_uint_t ngx_convotic_auth_well_formed(ngx_str_t *key);
static ngx_int_t ngx_convotic_auth_deny(ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_auth_busy(ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_auth_unsure(ngx_convotic_ctx_t *ctx);
static void ngx_convotic_auth_meta_handler(void *data,
    ngx_convotic_resp_t *reply);
static void ngx_convotic_auth_record_handler(void *data,
    ngx_convotic_resp_t *reply);
static void ngx_convotic_auth_ping_handler(void *data,
    ngx_convotic_resp_t *reply);
static ngx_convotic_auth_e ngx_convotic_auth_judge(ngx_convotic_ctx_t *ctx,
    ngx_convotic_resp_t *reply);
static ngx_uint_t ngx_convotic_auth_strings(ngx_convotic_resp_t *reply);
static ngx_uint_t ngx_convotic_auth_find(ngx_convotic_resp_t *reply,
    const ngx_str_t *field, ngx_str_t **value);
static ngx_int_t ngx_convotic_auth_id(ngx_convotic_ctx_t *ctx,
    ngx_str_t *value);
static ngx_int_t ngx_convotic_auth_workspace(ngx_convotic_ctx_t *ctx,
    ngx_str_t *value);
static ngx_int_t ngx_convotic_auth_name(ngx_str_t *value, u_char *copy,
    uint16_t *len);
static ngx_int_t ngx_convotic_auth_status(ngx_convotic_ctx_t *ctx,
    ngx_str_t *value);
static ngx_int_t ngx_convotic_auth_rate(ngx_convotic_ctx_t *ctx,
    ngx_str_t *value);
static ngx_int_t ngx_convotic_auth_expires(ngx_convotic_ctx_t *ctx,
    ngx_str_t *value);
static ngx_int_t ngx_convotic_auth_text(ngx_convotic_ctx_t *ctx,
    ngx_str_t *value);
static ngx_int_t ngx_convotic_auth_created(ngx_convotic_ctx_t *ctx,
    ngx_str_t *value);
static int64_t ngx_convotic_auth_number(ngx_str_t *value);


/*
 * A judge says NGX_OK, NGX_DECLINED (the key is not to be used) or NGX_ERROR
 * (the field is malformed).  Fields that are not listed are for others.
 */

static const ngx_convotic_auth_field_t  ngx_convotic_auth_fields[] = {
    { ngx_string("id"), 1, ngx_convotic_auth_id },
    { ngx_string("workspace"), 1, ngx_convotic_auth_workspace },
    { ngx_string("status"), 1, ngx_convotic_auth_status },
    { ngx_string("rate"), 0, ngx_convotic_auth_rate },
    { ngx_string("expires"), 0, ngx_convotic_auth_expires },
    { ngx_string("name"), 0, ngx_convotic_auth_text },
    { ngx_string("created"), 0, ngx_convotic_auth_created },
    { ngx_null_string, 0, NULL }
};


ngx_int_t
ngx_convotic_auth_start(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_int_t                  rc;
    ngx_str_t                  key;
    ngx_convotic_woken_e       woken;
    ngx_convotic_main_conf_t  *mcf;

    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    if (!ctx->hashed) {
        rc = ngx_convotic_auth_header(r, ctx, &key);

        if (rc != NGX_OK) {
            return rc;
        }

        if (ngx_convotic_digest(mcf->digest, &key, 1, ctx->key_digest)
            != NGX_OK)
        {
            return NGX_ERROR;
        }

        ctx->hashed = 1;
    }

    woken = ctx->waiter.woken;
    ctx->waiter.woken = NGX_CONVOTIC_WOKEN_NOT;

    switch (ngx_convotic_auth_lookup(ctx)) {

    case NGX_CONVOTIC_RECORDS_FRESH:
        ngx_convotic_zone_count(mcf->zone, NGX_CONVOTIC_COUNT_KNOWN_VALID);
        ngx_convotic_auth_end(mcf, ctx, NGX_CONVOTIC_FLIGHT_ENDED);
        return ngx_convotic_auth_identify(ctx);

    case NGX_CONVOTIC_RECORDS_DENIED:
        ngx_convotic_zone_count(mcf->zone, NGX_CONVOTIC_COUNT_KNOWN_DENIED);
        ngx_convotic_auth_end(mcf, ctx, NGX_CONVOTIC_FLIGHT_ENDED);
        return ngx_convotic_auth_deny(ctx);

    case NGX_CONVOTIC_RECORDS_AGED:
        ctx->aged = 1;
        break;

    default: /* NGX_CONVOTIC_RECORDS_NONE */
        ctx->aged = 0;
    }

    return ngx_convotic_auth_fetch(r, ctx, woken);
}


static ngx_convotic_records_e
ngx_convotic_auth_lookup(ngx_convotic_ctx_t *ctx)
{
    ngx_convotic_loc_conf_t      *conf;
    ngx_convotic_main_conf_t     *mcf;
    ngx_convotic_records_ages_t   ages;

    conf = ngx_http_get_module_loc_conf(ctx->request, ngx_convotic_module);
    mcf = ngx_http_get_module_main_conf(ctx->request, ngx_convotic_module);

    ages.valid = conf->key_valid;
    ages.invalid = conf->key_invalid;
    ages.stale = conf->key_stale;

    return ngx_convotic_records_key_lookup(mcf->zone, ctx->key_digest, &ages,
                                           &ctx->record);
}


/*
 * One look-up of a key at a time.  Who has waited for one, and knows no more
 * than before, may lead the next, or wait once more; then it asks by itself.
 */

static ngx_int_t
ngx_convotic_auth_fetch(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx,
    ngx_convotic_woken_e woken)
{
    ngx_convotic_loc_conf_t   *conf;
    ngx_convotic_main_conf_t  *mcf;

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);
    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    switch (woken) {

    case NGX_CONVOTIC_WOKEN_FAILED:
        return ngx_convotic_auth_unsure(ctx);

    case NGX_CONVOTIC_WOKEN_LATE:
        return ngx_convotic_auth_busy(ctx);

    default: /* NGX_CONVOTIC_WOKEN_NOT, NGX_CONVOTIC_WOKEN_ENDED */
        break;
    }

    if (ctx->flight || conf->key_valid == 0
        || ctx->waiter.turns++ == NGX_CONVOTIC_AUTH_TURNS)
    {
        return ngx_convotic_auth_ask(r, ctx);
    }

    switch (ngx_convotic_flight_join(mcf->flights, ctx,
                                     NGX_CONVOTIC_FLIGHT_KEY, ctx->key_digest,
                                     NGX_CONVOTIC_AUTH_WAIT,
                                     NGX_CONVOTIC_AUTH_WAIT))
    {

    case NGX_AGAIN:
        return NGX_AGAIN;

    case NGX_BUSY:
        return ngx_convotic_auth_busy(ctx);

    case NGX_ERROR:
        return NGX_ERROR;

    default: /* NGX_OK, NGX_DECLINED */
        return ngx_convotic_auth_ask(r, ctx);
    }
}


static void
ngx_convotic_auth_end(ngx_convotic_main_conf_t *mcf, ngx_convotic_ctx_t *ctx,
    ngx_convotic_flight_end_e end)
{
    if (ctx->flight) {
        ngx_convotic_flight_end(mcf->flights, ctx, end, NULL, NULL);
    }
}


/*
 * What nobody knows is looked up on the account of the address that asks,
 * until it turns out to be valid.  A key that was valid not long ago is on
 * nobody's account: after an epoch has ended all of them are asked about.
 * One that was refused not long ago, and has not changed, is refused again
 * when the budget is used up, and leaves the reserve to others.
 */

static ngx_int_t
ngx_convotic_auth_charge(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_str_t                  network;
    ngx_uint_t                 refused;
    ngx_msec_t                 rest;
    ngx_convotic_loc_conf_t   *conf;
    ngx_convotic_main_conf_t  *mcf;

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);
    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    if (conf->auth_failures == 0
        || ngx_convotic_records_key_known(mcf->zone, ctx->key_digest))
    {
        return NGX_OK;
    }

    ngx_convotic_addresses_network(r->connection->sockaddr, &network);

    if (network.len == 0) {
        return NGX_OK;
    }

    if (ngx_convotic_digest(mcf->digest, &network, 1, ctx->address)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    refused = ngx_convotic_records_key_refused(mcf->zone, ctx->key_digest);

    if (ngx_convotic_addresses_take(mcf->zone, ctx->address,
                                    conf->auth_failures, !refused, &rest)
        == NGX_OK)
    {
        ctx->charged = 1;
        return NGX_OK;
    }

    if (refused) {
        return ngx_convotic_auth_deny(ctx);
    }

    ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                  "an unknown key is refused: too many from this address");

    ngx_convotic_zone_count(mcf->zone, NGX_CONVOTIC_COUNT_ADDRESS_REFUSED);

    ngx_convotic_error_limited(r->pool, &ctx->answer, rest);

    return NGX_DONE;
}


static void
ngx_convotic_auth_settle(ngx_convotic_ctx_t *ctx, ngx_uint_t denied)
{
    ngx_uint_t                 n;
    ngx_convotic_loc_conf_t   *conf;
    ngx_convotic_main_conf_t  *mcf;

    if (!ctx->charged) {
        return;
    }

    ctx->charged = 0;

    conf = ngx_http_get_module_loc_conf(ctx->request, ngx_convotic_module);
    mcf = ngx_http_get_module_main_conf(ctx->request, ngx_convotic_module);

    n = ngx_convotic_addresses_done(mcf->zone, ctx->address, denied);

    if (denied && n == conf->auth_failures) {
        ngx_log_error(NGX_LOG_NOTICE, ctx->request->connection->log, 0,
                      "this address has tried %ui unknown keys within a "
                      "minute, and may try no more in it", n);
    }
}


/* who leaves before the verdict is taken to have had no valid key */

void
ngx_convotic_auth_leave(ngx_convotic_ctx_t *ctx)
{
    ngx_convotic_auth_settle(ctx, 1);
}


static ngx_int_t
ngx_convotic_auth_ask(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    u_char                    *p;
    ngx_int_t                  rc;
    ngx_str_t                  meta[2], record[2], ping[2];
    ngx_uint_t                 i;
    ngx_convotic_main_conf_t  *mcf;

    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    rc = ngx_convotic_auth_charge(r, ctx);

    if (rc != NGX_OK) {

        /* who has waited may be of another address */

        ngx_convotic_auth_end(mcf, ctx, NGX_CONVOTIC_FLIGHT_ENDED);
        return rc;
    }

    ngx_hex_dump(ctx->key_hash, ctx->key_digest, NGX_CONVOTIC_DIGEST_LEN);

    p = ngx_pnalloc(r->pool, 2 * mcf->prefix.len + sizeof("metakey:") - 1
                             + NGX_CONVOTIC_HEX_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ctx->fetched = ngx_pcalloc(r->pool, sizeof(ngx_convotic_record_t));
    if (ctx->fetched == NULL) {
        return NGX_ERROR;
    }

    ngx_str_set(&meta[0], "EXISTS");
    meta[1].data = p;
    p = ngx_cpymem(p, mcf->prefix.data, mcf->prefix.len);
    p = ngx_cpymem(p, "meta", 4);
    meta[1].len = p - meta[1].data;

    ngx_str_set(&record[0], "HGETALL");
    record[1].data = p;
    p = ngx_cpymem(p, mcf->prefix.data, mcf->prefix.len);
    p = ngx_cpymem(p, "key:", 4);
    p = ngx_cpymem(p, ctx->key_hash, NGX_CONVOTIC_HEX_LEN);
    record[1].len = p - record[1].data;

    /*
     * One server, one connection: the replies come in this order.  "meta" is
     * asked for behind the record, for a store that is emptied in between has
     * neither.  The last is the digest back again, which shows that all of
     * them are this request's.
     */

    ngx_str_set(&ping[0], "PING");
    ping[1].data = ctx->key_hash;
    ping[1].len = NGX_CONVOTIC_HEX_LEN;

    ngx_convotic_records_mark(mcf->zone, ctx->key_digest, &ctx->mark);

    ctx->slots[0] = ngx_convotic_redis_send(mcf->keys, 2, record,
                                            ngx_convotic_auth_record_handler,
                                            ctx);

    if (ctx->slots[0]) {
        ctx->slots[1] = ngx_convotic_redis_send(mcf->keys, 2, meta,
                                            ngx_convotic_auth_meta_handler,
                                            ctx);
    }

    if (ctx->slots[1]) {
        ctx->slots[2] = ngx_convotic_redis_send(mcf->keys, 2, ping,
                                            ngx_convotic_auth_ping_handler,
                                            ctx);
    }

    if (ctx->slots[2]) {
        return NGX_AGAIN;
    }

    for (i = 0; i < 2; i++) {
        if (ctx->slots[i]) {
            ngx_convotic_redis_cancel(ctx->slots[i]);
            ctx->slots[i] = NULL;
        }
    }

    ctx->verdict = NGX_CONVOTIC_AUTH_UNSURE;

    return ngx_convotic_auth_done(r, ctx);
}


ngx_int_t
ngx_convotic_auth_done(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_str_t                 *run_id;
    ngx_convotic_main_conf_t  *mcf;

    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    if (ctx->verdict != NGX_CONVOTIC_AUTH_UNSURE) {
        run_id = ngx_convotic_redis_run_id(mcf->keys);

        ngx_convotic_records_key_store(mcf->zone, ctx->key_digest, &ctx->mark,
                                   run_id,
                                   ctx->verdict == NGX_CONVOTIC_AUTH_VALID
                                   ? ctx->fetched : NULL);
    }

    ngx_convotic_auth_end(mcf, ctx, ctx->verdict == NGX_CONVOTIC_AUTH_UNSURE
                                    ? NGX_CONVOTIC_FLIGHT_ERROR
                                    : NGX_CONVOTIC_FLIGHT_ENDED);

    ngx_convotic_auth_settle(ctx, ctx->verdict == NGX_CONVOTIC_AUTH_DENIED);

    switch (ctx->verdict) {

    case NGX_CONVOTIC_AUTH_VALID:
        ctx->record = *ctx->fetched;
        return ngx_convotic_auth_identify(ctx);

    case NGX_CONVOTIC_AUTH_DENIED:

        /* for the log: whose it is */

        ctx->record = *ctx->fetched;
        (void) ngx_convotic_auth_identify(ctx);

        ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                      "key %*s... is refused", (size_t) 12, ctx->key_hash);

        return ngx_convotic_auth_deny(ctx);

    default: /* NGX_CONVOTIC_AUTH_UNSURE */
        return ngx_convotic_auth_unsure(ctx);
    }
}


static ngx_int_t
ngx_convotic_auth_identify(ngx_convotic_ctx_t *ctx)
{
    ctx->key_id.data = ctx->record.id;
    ctx->key_id.len = ctx->record.id_len;

    ctx->workspace.data = ctx->record.workspace;
    ctx->workspace.len = ctx->record.workspace_len;

    return NGX_OK;
}


static ngx_int_t
ngx_convotic_auth_header(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx,
    ngx_str_t *key)
{
    ngx_uint_t               n;
    ngx_table_elt_t         *header;
    ngx_convotic_headers_t   it;

    static ngx_str_t  name = ngx_string("X-API-Key");

    n = 0;

    ngx_convotic_headers_start(&it, &r->headers_in.headers);

    while ((header = ngx_convotic_headers_next(&it)) != NULL) {

        if (ngx_convotic_headers_is(header, &name)) {
            *key = header->value;
            n++;
        }
    }

    if (n == 0) {
        ngx_convotic_error_format(r->pool, &ctx->answer,
                                  NGX_HTTP_UNAUTHORIZED,
                                  "Missing X-API-Key header");
        return NGX_DONE;
    }

    if (n > 1) {
        ngx_convotic_error_format(r->pool, &ctx->answer, NGX_HTTP_BAD_REQUEST,
                                "Header 'X-API-Key' must appear at most once");
        return NGX_DONE;
    }

    if (!ngx_convotic_auth_well_formed(key)) {
        return ngx_convotic_auth_deny(ctx);
    }

    return NGX_OK;
}


/* visible ASCII: what can be a key at all is worth a question to Redis */

static ngx_uint_t
ngx_convotic_auth_well_formed(ngx_str_t *key)
{
    size_t    i;
    uint64_t  w;

    if (key->len == 0 || key->len > NGX_CONVOTIC_AUTH_KEY_MAX) {
        return 0;
    }

    /* eight at a time: a byte below '!' borrows, one above '~' carries */

    for (i = 0; key->len - i >= sizeof(uint64_t); i += sizeof(uint64_t)) {
        ngx_memcpy(&w, key->data + i, sizeof(uint64_t));

        if (((w - 0x2121212121212121ULL) | (w + 0x0101010101010101ULL) | w)
            & 0x8080808080808080ULL)
        {
            return 0;
        }
    }

    for ( /* void */ ; i < key->len; i++) {
        if (key->data[i] <= ' ' || key->data[i] > '~') {
            return 0;
        }
    }

    return 1;
}


/* one message for every reason, so that none is disclosed */

static ngx_int_t
ngx_convotic_auth_deny(ngx_convotic_ctx_t *ctx)
{
    ngx_convotic_error_set(&ctx->answer, NGX_HTTP_UNAUTHORIZED);
    ngx_str_set(&ctx->answer.message, "Invalid API key");

    return NGX_DONE;
}


/*
 * It could not be asked, for others are in the way.  What was known last is
 * for when Redis is away, and not for that.
 */

static ngx_int_t
ngx_convotic_auth_busy(ngx_convotic_ctx_t *ctx)
{
    ngx_convotic_main_conf_t  *mcf;

    mcf = ngx_http_get_module_main_conf(ctx->request, ngx_convotic_module);

    if (ngx_convotic_redis_is_ready(mcf->keys)) {
        ctx->aged = 0;
    }

    return ngx_convotic_auth_unsure(ctx);
}


/* what was known last, if that may still be used */

static ngx_int_t
ngx_convotic_auth_unsure(ngx_convotic_ctx_t *ctx)
{
    ngx_convotic_records_e     found;
    ngx_convotic_main_conf_t  *mcf;

    mcf = ngx_http_get_module_main_conf(ctx->request, ngx_convotic_module);

    /* it may have been changed while Redis was asked */

    if (ctx->aged) {
        found = ngx_convotic_auth_lookup(ctx);

        ctx->aged = (found == NGX_CONVOTIC_RECORDS_AGED
                     || found == NGX_CONVOTIC_RECORDS_FRESH);
    }

    if (ctx->aged) {
        ngx_convotic_zone_count(mcf->zone, NGX_CONVOTIC_COUNT_KNOWN_AGED);

        return ngx_convotic_auth_identify(ctx);
    }

    ngx_convotic_error_set(&ctx->answer, NGX_HTTP_SERVICE_UNAVAILABLE);
    ctx->answer.retry_after = NGX_CONVOTIC_RETRY_AFTER;

    return NGX_DONE;
}


static void
ngx_convotic_auth_record_handler(void *data, ngx_convotic_resp_t *reply)
{
    ngx_convotic_ctx_t        *ctx = data;
    ngx_convotic_main_conf_t  *mcf;

    ctx->slots[0] = NULL;
    ctx->verdict = NGX_CONVOTIC_AUTH_UNSURE;

    if (reply == NULL) {
        return;
    }

    mcf = ngx_http_get_module_main_conf(ctx->request, ngx_convotic_module);

    ctx->number = ngx_convotic_redis_number(mcf->keys);

    if (reply->type != NGX_CONVOTIC_RESP_ARRAY) {
        ngx_convotic_redis_complain(mcf->keys, "TYPE",
                         "it answered HGETALL with an unexpected type");
        return;
    }

    ctx->verdict = ngx_convotic_auth_judge(ctx, reply);
}


/* what the record said counts if this is our store, and the same one */

static void
ngx_convotic_auth_meta_handler(void *data, ngx_convotic_resp_t *reply)
{
    ngx_convotic_ctx_t        *ctx = data;
    ngx_convotic_main_conf_t  *mcf;

    ctx->slots[1] = NULL;

    mcf = ngx_http_get_module_main_conf(ctx->request, ngx_convotic_module);

    if (reply && reply->type == NGX_CONVOTIC_RESP_INTEGER
        && reply->integer == 1
        && ctx->number == ngx_convotic_redis_number(mcf->keys))
    {
        return;
    }

    ctx->verdict = NGX_CONVOTIC_AUTH_UNSURE;

    if (reply && reply->type == NGX_CONVOTIC_RESP_INTEGER
        && reply->integer == 0)
    {
        ngx_convotic_redis_complain(mcf->keys, "META",
                         "it has no \"meta\": run \"convoticctl init\" "
                         "if this is the right store, and a complete one");
    }
}


/*
 * A stream of replies that has shifted, whoever did it, would give one key's
 * record to another: such a connection is closed, and nobody on it believed.
 */

static void
ngx_convotic_auth_ping_handler(void *data, ngx_convotic_resp_t *reply)
{
    ngx_convotic_ctx_t        *ctx = data;
    ngx_convotic_main_conf_t  *mcf;

    ctx->slots[2] = NULL;

    mcf = ngx_http_get_module_main_conf(ctx->request, ngx_convotic_module);

    if (reply == NULL
        || ctx->number != ngx_convotic_redis_number(mcf->keys))
    {
        ctx->verdict = NGX_CONVOTIC_AUTH_UNSURE;

    } else if (reply->type != NGX_CONVOTIC_RESP_STRING
               || reply->str.len != NGX_CONVOTIC_HEX_LEN
               || ngx_memcmp(reply->str.data, ctx->key_hash,
                             NGX_CONVOTIC_HEX_LEN)
                  != 0)
    {
        ctx->verdict = NGX_CONVOTIC_AUTH_UNSURE;
        ngx_convotic_redis_distrust(mcf->keys);
    }

    ngx_convotic_zone_count(mcf->zone,
                            NGX_CONVOTIC_COUNT_KEY_UNSURE + ctx->verdict);

    ctx->resume(ctx);
}


static ngx_convotic_auth_e
ngx_convotic_auth_judge(ngx_convotic_ctx_t *ctx, ngx_convotic_resp_t *reply)
{
    ngx_int_t                         rc;
    ngx_str_t                        *value;
    ngx_uint_t                        n;
    ngx_convotic_auth_e               verdict;
    ngx_convotic_main_conf_t         *mcf;
    const ngx_convotic_auth_field_t  *field, *malformed;

    if (reply->nelts == 0) {
        return NGX_CONVOTIC_AUTH_DENIED;
    }

    if (!ngx_convotic_auth_strings(reply)) {
        return NGX_CONVOTIC_AUTH_UNSURE;
    }

    verdict = NGX_CONVOTIC_AUTH_VALID;
    malformed = NULL;

    for (field = ngx_convotic_auth_fields; field->name.len; field++) {

        n = ngx_convotic_auth_find(reply, &field->name, &value);

        if (n > 1) {
            return NGX_CONVOTIC_AUTH_UNSURE;
        }

        if (value == NULL && !field->required) {
            continue;
        }

        rc = value ? field->judge(ctx, value) : NGX_ERROR;

        if (rc == NGX_ERROR && malformed == NULL) {
            malformed = field;
        }

        if (rc != NGX_OK) {
            verdict = NGX_CONVOTIC_AUTH_DENIED;
        }
    }

    if (malformed) {
        ngx_log_error(NGX_LOG_WARN, ctx->request->connection->log, 0,
                      "the record of key %*s... is refused: "
                      "its field \"%V\" is missing or malformed",
                      (size_t) 12, ctx->key_hash, &malformed->name);

        mcf = ngx_http_get_module_main_conf(ctx->request,
                                            ngx_convotic_module);
        ngx_convotic_zone_count(mcf->zone,
                                NGX_CONVOTIC_COUNT_RECORD_MALFORMED);
    }

    return verdict;
}


/* names and values, as HGETALL has them */

static ngx_uint_t
ngx_convotic_auth_strings(ngx_convotic_resp_t *reply)
{
    size_t  i;

    for (i = 0; i < reply->nelts; i++) {
        if (reply->elts[i]->type != NGX_CONVOTIC_RESP_STRING) {
            return 0;
        }
    }

    return reply->nelts % 2 == 0;
}


/* how often the field is there; no Redis has one twice */

static ngx_uint_t
ngx_convotic_auth_find(ngx_convotic_resp_t *reply, const ngx_str_t *field,
    ngx_str_t **value)
{
    size_t       i;
    ngx_str_t   *name;
    ngx_uint_t   n;

    n = 0;
    *value = NULL;

    for (i = 0; i < reply->nelts; i += 2) {
        name = &reply->elts[i]->str;

        if (name->len == field->len
            && ngx_memcmp(name->data, field->data, name->len) == 0)
        {
            *value = &reply->elts[i + 1]->str;
            n++;
        }
    }

    return n;
}


static ngx_int_t
ngx_convotic_auth_id(ngx_convotic_ctx_t *ctx, ngx_str_t *value)
{
    return ngx_convotic_auth_name(value, ctx->fetched->id,
                                  &ctx->fetched->id_len);
}


static ngx_int_t
ngx_convotic_auth_workspace(ngx_convotic_ctx_t *ctx, ngx_str_t *value)
{
    ngx_convotic_main_conf_t  *mcf;

    mcf = ngx_http_get_module_main_conf(ctx->request, ngx_convotic_module);

    if (ngx_convotic_digest(mcf->digest, value, 1,
                            ctx->fetched->workspace_digest)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_convotic_auth_name(value, ctx->fetched->workspace,
                                  &ctx->fetched->workspace_len);
}


/*
 * The characters leave no doubt where a name ends in a Redis key, in an
 * envelope or in a header.
 */

static ngx_int_t
ngx_convotic_auth_name(ngx_str_t *value, u_char *copy, uint16_t *len)
{
    size_t  i;
    u_char  ch;

    if (value->len == 0 || value->len > NGX_CONVOTIC_NAME_LEN) {
        return NGX_ERROR;
    }

    for (i = 0; i < value->len; i++) {
        ch = value->data[i];

        if ((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z')
            || (ch >= '0' && ch <= '9')
            || ch == '.' || ch == '_' || ch == '-')
        {
            continue;
        }

        return NGX_ERROR;
    }

    ngx_memcpy(copy, value->data, value->len);
    *len = (uint16_t) value->len;

    return NGX_OK;
}


static ngx_int_t
ngx_convotic_auth_status(ngx_convotic_ctx_t *ctx, ngx_str_t *value)
{
    if (value->len == 6 && ngx_memcmp(value->data, "active", 6) == 0) {
        return NGX_OK;
    }

    if (value->len == 8 && ngx_memcmp(value->data, "disabled", 8) == 0) {
        return NGX_DECLINED;
    }

    if (value->len == 7 && ngx_memcmp(value->data, "revoked", 7) == 0) {
        return NGX_DECLINED;
    }

    return NGX_ERROR;
}


static ngx_int_t
ngx_convotic_auth_rate(ngx_convotic_ctx_t *ctx, ngx_str_t *value)
{
    int64_t  n;

    n = ngx_convotic_auth_number(value);

    if (n < 1 || n > NGX_CONVOTIC_RATE_MAX) {
        return NGX_ERROR;
    }

    ctx->fetched->rate = (ngx_uint_t) n;

    return NGX_OK;
}


static ngx_int_t
ngx_convotic_auth_expires(ngx_convotic_ctx_t *ctx, ngx_str_t *value)
{
    int64_t  n;

    n = ngx_convotic_auth_number(value);

    if (n < 0 || n > NGX_CONVOTIC_AUTH_EXPIRES_MAX) {
        return NGX_ERROR;
    }

    ctx->fetched->expires = n;

    return (n > (int64_t) ngx_time()) ? NGX_OK : NGX_DECLINED;
}


/* for people; of no use here, but absurd ones show a broken writer */

static ngx_int_t
ngx_convotic_auth_text(ngx_convotic_ctx_t *ctx, ngx_str_t *value)
{
    size_t  i;

    if (value->len > NGX_CONVOTIC_AUTH_TEXT_MAX) {
        return NGX_ERROR;
    }

    for (i = 0; i < value->len; i++) {
        if (value->data[i] < ' ') {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* seconds, or a date as ISO 8601 has them */

static ngx_int_t
ngx_convotic_auth_created(ngx_convotic_ctx_t *ctx, ngx_str_t *value)
{
    size_t  i;
    u_char  ch;

    if (ngx_convotic_auth_number(value) >= 0) {
        return NGX_OK;
    }

    if (value->len < sizeof("2026-01-01") - 1 || value->len > 40
        || value->data[4] != '-')
    {
        return NGX_ERROR;
    }

    for (i = 0; i < value->len; i++) {
        ch = value->data[i];

        if (i == 4 || (ch >= '0' && ch <= '9')) {
            continue;
        }

        if (i < 4 || ch == 0 || ngx_strchr("-:.+TZ ", ch) == NULL) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* decimal digits only, at most 12 of them; else -1 */

static int64_t
ngx_convotic_auth_number(ngx_str_t *value)
{
    size_t   i;
    int64_t  n;

    if (value->len == 0 || value->len > 12) {
        return -1;
    }

    n = 0;

    for (i = 0; i < value->len; i++) {

        if (value->data[i] < '0' || value->data[i] > '9') {
            return -1;
        }

        n = n * 10 + (value->data[i] - '0');
    }

    return n;
}
