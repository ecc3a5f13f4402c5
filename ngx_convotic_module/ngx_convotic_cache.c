
/*
 * Owns bodies in Redis: their keys, generations and envelopes.
 *
 * An envelope is text: lines that bind it, lines about it, an empty line,
 * and the body as the upstream sent it.
 *
 *     convotic-body 1
 *     workspace acme
 *     generation 1774878120000000
 *     run-id 5b0c...
 *     namespace api.example.com /v1/contacts
 *     query platform=line&limit=10
 *     stored 1774878125123
 *     fresh 30000
 *     stale 300000
 *     etag "3f0b..."
 *     header Sunset: Sat, 31 Dec 2026 23:59:59 GMT
 *     length 4801
 *
 * The first six, from "convotic-body" to "query", are made from the request
 * that reads and compared as bytes: what was not stored for this workspace,
 * generation, server, namespace and query is not there.  None of the values
 * can have a line's end in it.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_digest.h"
#include "ngx_convotic_redis.h"
#include "ngx_convotic_cache.h"


#define NGX_CONVOTIC_CACHE_MAGIC        "convotic-body "

#define NGX_CONVOTIC_CACHE_HEADERS_MAX  32

/* of an entity tag: 128 bits of the digest */
#define NGX_CONVOTIC_CACHE_ETAG_HEX     32

/* a copy from a clock that is this much ahead of ours is not believed */
#define NGX_CONVOTIC_CACHE_SKEW         60000   /* ms */

/*
 * A generation begins as the server's time in microseconds and has 16 digits
 * until the year 2286.  A shorter one comes of a counter that was lost and
 * counted anew, and could repeat what was used before: it is replaced.
 */
#define NGX_CONVOTIC_CACHE_DIGITS_MIN   16
#define NGX_CONVOTIC_CACHE_DIGITS_MAX   19


static void ngx_convotic_cache_confirm_handler(void *data,
    ngx_convotic_resp_t *reply);
static ngx_int_t ngx_convotic_cache_key(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_cache_namespace(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static void ngx_convotic_cache_generation_handler(void *data,
    ngx_convotic_resp_t *reply);
static ngx_int_t ngx_convotic_cache_create(ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_cache_generation_name(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx, ngx_str_t *name);
static void ngx_convotic_cache_body_handler(void *data,
    ngx_convotic_resp_t *reply);
static void ngx_convotic_cache_came(ngx_convotic_ctx_t *ctx);
static ngx_int_t ngx_convotic_cache_binding(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx, ngx_str_t *binding);
static ngx_int_t ngx_convotic_cache_open(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx);
static ngx_uint_t ngx_convotic_cache_is_binding(u_char *p, u_char *last);
static ngx_int_t ngx_convotic_cache_line(u_char **pos, u_char *last,
    const char *name, ngx_str_t *value);
static ngx_int_t ngx_convotic_cache_number(u_char **pos, u_char *last,
    const char *name, int64_t *n);
static ngx_int_t ngx_convotic_cache_headers(ngx_http_request_t *r,
    u_char **pos, u_char *last, ngx_convotic_answer_t *copy);
static ngx_uint_t ngx_convotic_cache_is_etag(ngx_str_t *etag);
static int64_t ngx_convotic_cache_now(void);


static ngx_str_t  ngx_convotic_cache_script = ngx_string(
    "local g = redis.call('GET', KEYS[1]) "
    "if g and (#g >= 16 or not string.match(g, '^%d+$')) then return g end "
    "local t = redis.call('TIME') "
    "g = t[1] .. string.format('%06d', t[2]) "
    "redis.call('SET', KEYS[1], g) "
    "return g");


ngx_int_t
ngx_convotic_cache_start(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_str_t                  get[2];
    ngx_convotic_loc_conf_t   *conf;
    ngx_convotic_main_conf_t  *mcf;

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);
    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    ctx->cache.status = NGX_CONVOTIC_CACHE_BYPASS;

    if (!conf->cache
        || ngx_http_test_predicates(r, conf->cache_bypass) != NGX_OK)
    {
        ctx->cache.detail = "configured";
        return NGX_OK;
    }

    if (ngx_convotic_cache_key(r, ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_str_set(&get[0], "GET");

    if (ngx_convotic_cache_generation_name(r, ctx, &get[1]) != NGX_OK) {
        return NGX_ERROR;
    }

    ctx->slots[0] = ngx_convotic_redis_send(mcf->keys, 2, get,
                                      ngx_convotic_cache_generation_handler,
                                      ctx);
    if (ctx->slots[0] == NULL) {
        ctx->cache.detail = "redis";
        return NGX_OK;
    }

    ctx->cache.waiting = 1;

    get[1] = ctx->cache.key;

    ctx->slots[1] = ngx_convotic_redis_send(mcf->bodies, 2, get,
                                            ngx_convotic_cache_body_handler,
                                            ctx);
    if (ctx->slots[1]) {
        ctx->cache.waiting++;
    }

    return NGX_AGAIN;
}


ngx_int_t
ngx_convotic_cache_done(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    if (ctx->cache.generation.len == 0) {
        ctx->cache.detail = "redis";
        return NGX_OK;
    }

    ctx->cache.status = NGX_CONVOTIC_CACHE_MISS;

    if (ctx->cache.envelope.len == 0) {
        return NGX_OK;
    }

    switch (ngx_convotic_cache_open(r, ctx)) {

    case NGX_OK:
        break;

    case NGX_DECLINED:
        ctx->cache.detail = "outdated";
        return NGX_OK;

    default: /* NGX_ERROR */
        ngx_log_error(NGX_LOG_WARN, r->connection->log, 0,
                      "malformed envelope in \"%V\"", &ctx->cache.key);
        return NGX_OK;
    }

    if (ctx->cache.ttl < 0) {
        ctx->cache.status = NGX_CONVOTIC_CACHE_EXPIRED;
        return NGX_OK;
    }

    ctx->cache.status = NGX_CONVOTIC_CACHE_HIT;
    ctx->answer = ctx->cache.copy;

    return NGX_DONE;
}


void
ngx_convotic_cache_store(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx,
    ngx_convotic_answer_t *answer, ngx_msec_t fresh, ngx_msec_t stale)
{
    u_char                    *p, px[NGX_INT64_LEN];
    size_t                     len;
    ngx_str_t                  binding, set[5];
    ngx_uint_t                 i;
    ngx_convotic_header_t     *header;
    ngx_convotic_main_conf_t  *mcf;

    if (ctx->cache.generation.len == 0
        || ngx_convotic_cache_binding(r, ctx, &binding) != NGX_OK)
    {
        return;
    }

    len = 0;
    header = NULL;

    if (answer->headers) {
        header = answer->headers->elts;

        for (i = 0; i < answer->headers->nelts; i++) {
            len += sizeof("header : \n") - 1 + header[i].name.len
                   + header[i].value.len;
        }

        if (answer->headers->nelts > NGX_CONVOTIC_CACHE_HEADERS_MAX
            || len > NGX_CONVOTIC_CACHE_OVERHEAD / 2)
        {
            return;
        }
    }

    len += binding.len + sizeof("stored \nfresh \nstale \netag \nlength \n\n")
           + 4 * NGX_INT64_LEN + answer->etag.len + answer->body.len;

    if (len - answer->body.len > NGX_CONVOTIC_CACHE_OVERHEAD) {
        return;
    }

    p = ngx_pnalloc(r->pool, len);
    if (p == NULL) {
        return;
    }

    set[2].data = p;

    p = ngx_cpymem(p, binding.data, binding.len);
    p = ngx_sprintf(p, "stored %L\nfresh %M\nstale %M\netag %V\n",
                    ngx_convotic_cache_now() - (int64_t) answer->age * 1000,
                    fresh + (ngx_msec_t) answer->age * 1000, stale,
                    &answer->etag);

    for (i = 0; header && i < answer->headers->nelts; i++) {
        p = ngx_sprintf(p, "header %V: %V\n", &header[i].name,
                        &header[i].value);
    }

    p = ngx_sprintf(p, "length %uz\n\n", answer->body.len);
    p = ngx_cpymem(p, answer->body.data, answer->body.len);

    set[2].len = p - set[2].data;

    ngx_str_set(&set[0], "SET");
    set[1] = ctx->cache.key;
    ngx_str_set(&set[3], "PX");
    set[4].data = px;
    set[4].len = ngx_sprintf(px, "%M", fresh + stale) - px;

    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    if (ngx_convotic_redis_post(mcf->bodies, 5, set) == NGX_OK) {
        ctx->cache.ttl = fresh / 1000;
        ctx->cache.stored = 1;
    }
}


ngx_int_t
ngx_convotic_cache_confirm(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_str_t                  get[2];
    ngx_convotic_main_conf_t  *mcf;

    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    ngx_str_set(&get[0], "GET");

    if (ngx_convotic_cache_generation_name(r, ctx, &get[1]) != NGX_OK) {
        return NGX_DECLINED;
    }

    ctx->slots[0] = ngx_convotic_redis_send(mcf->keys, 2, get,
                                         ngx_convotic_cache_confirm_handler,
                                         ctx);

    return ctx->slots[0] ? NGX_AGAIN : NGX_DECLINED;
}


static void
ngx_convotic_cache_confirm_handler(void *data, ngx_convotic_resp_t *reply)
{
    ngx_str_t                 *run_id;
    ngx_convotic_ctx_t        *ctx = data;
    ngx_convotic_cache_ctx_t  *cache;
    ngx_convotic_main_conf_t  *mcf;

    ctx->slots[0] = NULL;

    cache = &ctx->cache;
    mcf = ngx_http_get_module_main_conf(ctx->request, ngx_convotic_module);
    run_id = ngx_convotic_redis_run_id(mcf->keys);

    cache->confirmed = (reply && reply->type == NGX_CONVOTIC_RESP_STRING
                        && reply->str.len == cache->generation.len
                        && ngx_memcmp(reply->str.data, cache->generation.data,
                                      reply->str.len)
                           == 0
                        && run_id->len == cache->run_id.len
                        && ngx_memcmp(run_id->data, cache->run_id.data,
                                      run_id->len)
                           == 0);

    ctx->resume(ctx);
}


ngx_int_t
ngx_convotic_cache_etag(ngx_http_request_t *r, ngx_str_t *body,
    ngx_str_t *etag)
{
    u_char                     hex[NGX_CONVOTIC_HEX_LEN], *p;
    ngx_convotic_main_conf_t  *mcf;

    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    p = ngx_pnalloc(r->pool, NGX_CONVOTIC_CACHE_ETAG_HEX + 2);

    if (p == NULL
        || ngx_convotic_digest_hex(mcf->digest, body, 1, hex) != NGX_OK)
    {
        return NGX_ERROR;
    }

    etag->data = p;

    *p++ = '"';
    p = ngx_cpymem(p, hex, NGX_CONVOTIC_CACHE_ETAG_HEX);
    *p++ = '"';

    etag->len = p - etag->data;

    return NGX_OK;
}


ngx_str_t *
ngx_convotic_cache_kept(ngx_str_t *name, ngx_str_t *value)
{
    size_t      i;
    ngx_str_t  *kept;

    static ngx_str_t  names[] = {
        ngx_string("Sunset"),
        ngx_string("Deprecation"),
        ngx_string("Link"),
        ngx_null_string
    };

    for (kept = names; kept->len; kept++) {

        if (name->len == kept->len
            && ngx_strncasecmp(name->data, kept->data, kept->len) == 0)
        {
            break;
        }
    }

    if (kept->len == 0) {
        return NULL;
    }

    for (i = 0; i < value->len; i++) {
        if ((value->data[i] < ' ' && value->data[i] != '\t')
            || value->data[i] == 0x7f)
        {
            return NULL;
        }
    }

    return kept;
}


/* convotic:body:v1:{workspace}:<digest of namespace and query> */

static ngx_int_t
ngx_convotic_cache_key(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    u_char                    *p, hex[NGX_CONVOTIC_HEX_LEN];
    ngx_str_t                  parts[3];
    ngx_convotic_main_conf_t  *mcf;

    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    if (ngx_convotic_cache_namespace(r, ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    /* neither part can have a line's end: one text, one pair */

    parts[0] = ctx->cache.ns;
    ngx_str_set(&parts[1], "\n");
    parts[2] = ctx->query;

    if (ngx_convotic_digest_hex(mcf->digest, parts, 3, hex) != NGX_OK) {
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


static void
ngx_convotic_cache_generation_handler(void *data, ngx_convotic_resp_t *reply)
{
    u_char                    *p, text[NGX_CONVOTIC_NAME_LEN + 128];
    ngx_str_t                 *run_id;
    ngx_uint_t                 i;
    ngx_http_request_t        *r;
    ngx_convotic_ctx_t        *ctx = data;
    ngx_convotic_main_conf_t  *mcf;

    ctx->slots[0] = NULL;

    r = ctx->request;
    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    if (reply == NULL) {
        ngx_convotic_cache_came(ctx);
        return;
    }

    if (reply->type == NGX_CONVOTIC_RESP_NIL) {
        (void) ngx_convotic_cache_create(ctx);
        ngx_convotic_cache_came(ctx);
        return;
    }

    if (reply->type != NGX_CONVOTIC_RESP_STRING
        || reply->str.len == 0
        || reply->str.len > NGX_CONVOTIC_CACHE_DIGITS_MAX)
    {
        goto invalid;
    }

    for (i = 0; i < reply->str.len; i++) {
        if (reply->str.data[i] < '0' || reply->str.data[i] > '9') {
            goto invalid;
        }
    }

    /* Redis could not count on from there */

    if (reply->str.len == NGX_CONVOTIC_CACHE_DIGITS_MAX
        && ngx_memcmp(reply->str.data, "9223372036854775807",
                      NGX_CONVOTIC_CACHE_DIGITS_MAX)
           >= 0)
    {
        goto invalid;
    }

    if (reply->str.len < NGX_CONVOTIC_CACHE_DIGITS_MIN
        || reply->str.data[0] == '0')
    {
        if (ngx_convotic_cache_create(ctx) == NGX_OK) {
            ngx_convotic_cache_came(ctx);
            return;
        }

        goto invalid;
    }

    run_id = ngx_convotic_redis_run_id(mcf->keys);

    p = ngx_pnalloc(r->pool, reply->str.len + run_id->len);

    if (p && run_id->len) {
        ctx->cache.generation.data = p;
        ctx->cache.generation.len = reply->str.len;
        p = ngx_cpymem(p, reply->str.data, reply->str.len);

        ctx->cache.run_id.data = p;
        ctx->cache.run_id.len = run_id->len;
        ngx_memcpy(p, run_id->data, run_id->len);
    }

    ngx_convotic_cache_came(ctx);
    return;

invalid:

    (void) ngx_slprintf(text, text + sizeof(text),
                        "the generation of workspace \"%V\" is not a plain "
                        "integer: its cache is bypassed%Z", &ctx->workspace);

    ngx_convotic_redis_complain(mcf->keys, "GENERATION", (char *) text);

    ngx_convotic_cache_came(ctx);
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
    eval[1] = ngx_convotic_cache_script;
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


static void
ngx_convotic_cache_body_handler(void *data, ngx_convotic_resp_t *reply)
{
    ngx_convotic_ctx_t  *ctx = data;

    ctx->slots[1] = NULL;

    if (reply && reply->type == NGX_CONVOTIC_RESP_STRING
        && reply->str.len > 0)
    {
        ctx->cache.envelope.data = ngx_pstrdup(ctx->request->pool,
                                               &reply->str);
        if (ctx->cache.envelope.data) {
            ctx->cache.envelope.len = reply->str.len;
        }
    }

    ngx_convotic_cache_came(ctx);
}


static void
ngx_convotic_cache_came(ngx_convotic_ctx_t *ctx)
{
    if (--ctx->cache.waiting == 0) {
        ctx->resume(ctx);
    }
}


static ngx_int_t
ngx_convotic_cache_binding(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx,
    ngx_str_t *binding)
{
    ngx_convotic_cache_ctx_t  *cache;

    cache = &ctx->cache;

    binding->data = ngx_pnalloc(r->pool,
                                sizeof("convotic-body 1\nworkspace \n"
                                       "generation \nrun-id \n"
                                       "namespace \nquery \n")
                                + ctx->workspace.len + cache->generation.len
                                + cache->run_id.len + cache->ns.len
                                + ctx->query.len);
    if (binding->data == NULL) {
        return NGX_ERROR;
    }

    binding->len = ngx_sprintf(binding->data,
                               "convotic-body 1\nworkspace %V\n"
                               "generation %V\nrun-id %V\n"
                               "namespace %V\nquery %V\n",
                               &ctx->workspace, &cache->generation,
                               &cache->run_id, &cache->ns, &ctx->query)
                   - binding->data;

    return NGX_OK;
}


/*
 * NGX_OK: cache.copy and cache.ttl are set; NGX_DECLINED: it was not stored
 * for this request; NGX_ERROR: it is malformed.
 */

static ngx_int_t
ngx_convotic_cache_open(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    u_char                 *p, *last;
    int64_t                 stored, fresh, stale, length, age;
    ngx_str_t               binding;
    ngx_convotic_answer_t  *copy;

    if (ngx_convotic_cache_binding(r, ctx, &binding) != NGX_OK) {
        return NGX_ERROR;
    }

    copy = &ctx->cache.copy;
    p = ctx->cache.envelope.data;
    last = p + ctx->cache.envelope.len;

    if (ctx->cache.envelope.len < binding.len
        || ngx_memcmp(p, binding.data, binding.len) != 0)
    {
        return ngx_convotic_cache_is_binding(p, last) ? NGX_DECLINED
                                                      : NGX_ERROR;
    }

    p += binding.len;

    if (ngx_convotic_cache_number(&p, last, "stored ", &stored) != NGX_OK
        || ngx_convotic_cache_number(&p, last, "fresh ", &fresh) != NGX_OK
        || ngx_convotic_cache_number(&p, last, "stale ", &stale) != NGX_OK
        || ngx_convotic_cache_line(&p, last, "etag ", &copy->etag) != NGX_OK
        || !ngx_convotic_cache_is_etag(&copy->etag)
        || ngx_convotic_cache_headers(r, &p, last, copy) != NGX_OK
        || ngx_convotic_cache_number(&p, last, "length ", &length) != NGX_OK
        || p == last || *p++ != '\n' || last - p != length)
    {
        return NGX_ERROR;
    }

    age = ngx_convotic_cache_now() - stored;

    if (age < -NGX_CONVOTIC_CACHE_SKEW || age >= fresh + stale) {
        return NGX_DECLINED;
    }

    age = ngx_max(age, 0);

    copy->status = NGX_HTTP_OK;
    copy->body.data = p;
    copy->body.len = length;
    copy->age = age / 1000;

    /* rounded down, so that what has expired has a negative one */

    ctx->cache.ttl = (fresh > age) ? (fresh - age) / 1000
                                   : -((age - fresh) / 1000) - 1;
    return NGX_OK;
}


/* somebody else's, or of another version; but a binding */

static ngx_uint_t
ngx_convotic_cache_is_binding(u_char *p, u_char *last)
{
    ngx_str_t    value;
    const char  **line;

    static const char  *lines[] = {
        NGX_CONVOTIC_CACHE_MAGIC, "workspace ", "generation ", "run-id ",
        "namespace ", "query ", NULL
    };

    for (line = lines; *line; line++) {
        if (ngx_convotic_cache_line(&p, last, *line, &value) != NGX_OK) {
            return 0;
        }

        if (line == lines && (value.len != 1 || value.data[0] != '1')) {
            return 1;
        }
    }

    return 1;
}


/* a line that begins with name; *pos moves behind it */

static ngx_int_t
ngx_convotic_cache_line(u_char **pos, u_char *last, const char *name,
    ngx_str_t *value)
{
    size_t   len;
    u_char  *p, *end;

    p = *pos;
    len = ngx_strlen(name);

    if ((size_t) (last - p) < len || ngx_memcmp(p, name, len) != 0) {
        return NGX_DECLINED;
    }

    p += len;

    end = ngx_strlchr(p, last, '\n');
    if (end == NULL) {
        return NGX_ERROR;
    }

    value->data = p;
    value->len = end - p;
    *pos = end + 1;

    return NGX_OK;
}


static ngx_int_t
ngx_convotic_cache_number(u_char **pos, u_char *last, const char *name,
    int64_t *n)
{
    off_t      value;
    ngx_str_t  text;

    if (ngx_convotic_cache_line(pos, last, name, &text) != NGX_OK) {
        return NGX_ERROR;
    }

    /* so short that the sum of two cannot overflow */

    if (text.len > 18) {
        return NGX_ERROR;
    }

    value = ngx_atoof(text.data, text.len);
    if (value == NGX_ERROR) {
        return NGX_ERROR;
    }

    *n = value;

    return NGX_OK;
}


static ngx_int_t
ngx_convotic_cache_headers(ngx_http_request_t *r, u_char **pos, u_char *last,
    ngx_convotic_answer_t *copy)
{
    u_char                 *colon;
    ngx_int_t               rc;
    ngx_str_t               line, name, value, *kept;
    ngx_convotic_header_t  *header;

    for ( ;; ) {

        rc = ngx_convotic_cache_line(pos, last, "header ", &line);

        if (rc != NGX_OK) {
            return (rc == NGX_DECLINED) ? NGX_OK : NGX_ERROR;
        }

        colon = ngx_strlchr(line.data, line.data + line.len, ':');

        if (colon == NULL || colon + 1 == line.data + line.len
            || colon[1] != ' ')
        {
            return NGX_ERROR;
        }

        name.data = line.data;
        name.len = colon - line.data;
        value.data = colon + 2;
        value.len = line.data + line.len - value.data;

        kept = ngx_convotic_cache_kept(&name, &value);
        if (kept == NULL) {
            return NGX_ERROR;
        }

        if (copy->headers == NULL) {
            copy->headers = ngx_array_create(r->pool, 2,
                                             sizeof(ngx_convotic_header_t));
            if (copy->headers == NULL) {
                return NGX_ERROR;
            }
        }

        header = ngx_array_push(copy->headers);
        if (header == NULL) {
            return NGX_ERROR;
        }

        header->name = *kept;
        header->value = value;
    }
}


/* as ngx_convotic_cache_etag() makes them */

static ngx_uint_t
ngx_convotic_cache_is_etag(ngx_str_t *etag)
{
    size_t  i;
    u_char  ch;

    if (etag->len != NGX_CONVOTIC_CACHE_ETAG_HEX + 2
        || etag->data[0] != '"' || etag->data[etag->len - 1] != '"')
    {
        return 0;
    }

    for (i = 1; i < etag->len - 1; i++) {
        ch = etag->data[i];

        if ((ch < '0' || ch > '9') && (ch < 'a' || ch > 'f')) {
            return 0;
        }
    }

    return 1;
}


/* the wall clock, for other nodes read it too; in ms */

static int64_t
ngx_convotic_cache_now(void)
{
    ngx_time_t  *tp;

    tp = ngx_timeofday();

    return (int64_t) tp->sec * 1000 + tp->msec;
}
