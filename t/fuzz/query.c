
/*
 * The query string.  The first byte of an input chooses the configuration,
 * the rest is the query.
 *
 * What is let pass is canonical: read again it gives itself, and so does any
 * other spelling of the same parameters.  What is refused is refused with one
 * of the documented texts, and a reading of our own agrees to all of it.
 */


#include "fuzz.h"

#include "ngx_convotic_conf.h"
#include "ngx_convotic_params.h"


#define FUZZ_QUERY_LIMIT     100
#define FUZZ_QUERY_DEFAULT   20
#define FUZZ_QUERY_PARAMS    256

#define FUZZ_QUERY_REJECT    1
#define FUZZ_QUERY_FORWARD   2
#define FUZZ_QUERY_STRANGE   4


typedef struct {
    ngx_str_t    name;
    ngx_str_t    value;
} fuzz_query_param_t;


/* as the own reading has them */

typedef struct {
    fuzz_query_param_t  param[FUZZ_QUERY_PARAMS];
    ngx_uint_t          n;
} fuzz_query_t;


static ngx_int_t fuzz_query_run(ngx_pool_t *pool, ngx_str_t *args,
    ngx_convotic_ctx_t *ctx);
static ngx_int_t fuzz_query_split(ngx_pool_t *pool, ngx_str_t *args,
    fuzz_query_t *query);
static ngx_int_t fuzz_query_decode(ngx_pool_t *pool, ngx_str_t *raw,
    ngx_str_t *value);
static int fuzz_query_hex(u_char ch);
static ngx_int_t fuzz_query_judge(fuzz_query_t *query, ngx_str_t **limit,
    ngx_str_t **platform);
static ngx_uint_t fuzz_query_forwards(ngx_str_t *name);
static void fuzz_query_passed(ngx_pool_t *pool, ngx_convotic_ctx_t *ctx,
    fuzz_query_t *query, ngx_str_t *limit, ngx_str_t *platform);
static void fuzz_query_refused(ngx_convotic_ctx_t *ctx);
static void fuzz_query_spell(ngx_pool_t *pool, fuzz_query_t *query,
    ngx_uint_t backwards, ngx_str_t *args);


static ngx_convotic_loc_conf_t  fuzz_query_conf;

static ngx_str_t  fuzz_query_platforms[] = {
    ngx_string("instagram"),
    ngx_string("line"),
    ngx_string("a b&%+=")
};

/* in no order, and one that has to be encoded */

static ngx_str_t  fuzz_query_forwarded[] = {
    ngx_string("sort"),
    ngx_string("a&b="),
    ngx_string("after")
};


void
fuzz_init(ngx_pool_t *pool)
{
    static ngx_array_t  platforms;

    platforms.elts = fuzz_query_platforms;
    platforms.nelts = 3;

    fuzz_query_conf.platforms = &platforms;
    fuzz_query_conf.limit_default = FUZZ_QUERY_DEFAULT;
    fuzz_query_conf.limit_max = FUZZ_QUERY_LIMIT;

    ngx_str_set(&fuzz_query_conf.limit_text, "20");
    ngx_str_set(&fuzz_query_conf.limit_error,
                "Parameter 'limit' must be between 1 and 100");
    ngx_str_set(&fuzz_query_conf.platforms_error,
                "Parameter 'platform' must be one of: instagram, line, "
                "a b&%+=");
}


void
fuzz_one(ngx_pool_t *pool, fuzz_input_t *in)
{
    u_char               config;
    ngx_int_t            rc, expected;
    ngx_str_t            args, spelling, *limit, *platform;
    ngx_uint_t           i;
    ngx_convotic_ctx_t  *ctx, *again;

    static fuzz_query_t  query;
    static ngx_array_t   forwarded;

    config = fuzz_byte(in);

    forwarded.elts = fuzz_query_forwarded;
    forwarded.nelts = (config & FUZZ_QUERY_STRANGE) ? 3 : 1;

    fuzz_query_conf.forward_args = (config & FUZZ_QUERY_FORWARD) ? &forwarded
                                                                 : NULL;
    fuzz_query_conf.unknown_args = (config & FUZZ_QUERY_REJECT)
                                   ? NGX_CONVOTIC_ARGS_REJECT
                                   : NGX_CONVOTIC_ARGS_IGNORE;

    args = fuzz_copy(pool, in->pos, in->last - in->pos);

    ctx = ngx_pcalloc(pool, sizeof(ngx_convotic_ctx_t));
    again = ngx_pcalloc(pool, sizeof(ngx_convotic_ctx_t));
    fuzz_assert(ctx && again, "no memory");

    rc = fuzz_query_run(pool, &args, ctx);

    limit = NULL;
    platform = NULL;

    expected = fuzz_query_split(pool, &args, &query);

    if (expected == NGX_ABORT) {
        return;
    }

    if (expected == NGX_OK) {
        expected = fuzz_query_judge(&query, &limit, &platform);
    }

    if (rc == NGX_DONE) {
        fuzz_assert(expected != NGX_OK, "refused, and should not be");
        fuzz_query_refused(ctx);
        return;
    }

    fuzz_assert(rc == NGX_OK, "neither let pass nor refused");
    fuzz_assert(expected == NGX_OK, "let pass, and should be refused");

    fuzz_query_passed(pool, ctx, &query, limit, platform);

    rc = fuzz_query_run(pool, &ctx->query, again);
    fuzz_assert(rc == NGX_OK, "the canonical query is refused");
    fuzz_assert(fuzz_equal(&again->query, &ctx->query),
                "the canonical query has another form");

    /* all of it encoded, and the other way round where that has no meaning */

    for (i = 0; i < 2; i++) {

        if (i && (config & FUZZ_QUERY_FORWARD)) {
            break;
        }

        fuzz_query_spell(pool, &query, i, &spelling);

        ngx_memzero(again, sizeof(ngx_convotic_ctx_t));

        rc = fuzz_query_run(pool, &spelling, again);
        fuzz_assert(rc == NGX_OK, "another spelling is refused");
        fuzz_assert(fuzz_equal(&again->query, &ctx->query),
                    "another spelling has another form");
    }
}


static ngx_int_t
fuzz_query_run(ngx_pool_t *pool, ngx_str_t *args, ngx_convotic_ctx_t *ctx)
{
    ngx_http_request_t  *r;

    r = fuzz_request(pool, NULL, &fuzz_query_conf);
    r->args = *args;

    ctx->request = r;

    return ngx_convotic_params_start(r, ctx);
}


/* NGX_DECLINED: malformed; NGX_ABORT: more than is compared here */

static ngx_int_t
fuzz_query_split(ngx_pool_t *pool, ngx_str_t *args, fuzz_query_t *query)
{
    u_char              *eq;
    ngx_int_t            rc;
    ngx_str_t            raw, name, value;
    fuzz_input_t         in;
    fuzz_query_param_t  *param;

    rc = NGX_OK;
    query->n = 0;

    in.pos = args->data;
    in.last = args->data + args->len;

    while (in.pos < in.last) {
        raw = fuzz_until(pool, &in, '&');

        if (raw.len == 0) {
            continue;
        }

        if (query->n == FUZZ_QUERY_PARAMS) {
            return NGX_ABORT;
        }

        param = &query->param[query->n++];

        name = raw;
        value.data = raw.data + raw.len;
        value.len = 0;

        eq = memchr(raw.data, '=', raw.len);

        if (eq) {
            name.len = eq - raw.data;
            value.data = eq + 1;
            value.len = raw.len - name.len - 1;
        }

        if (fuzz_query_decode(pool, &name, &param->name) != NGX_OK
            || fuzz_query_decode(pool, &value, &param->value) != NGX_OK)
        {
            rc = NGX_DECLINED;
        }
    }

    return rc;
}


static ngx_int_t
fuzz_query_decode(ngx_pool_t *pool, ngx_str_t *raw, ngx_str_t *value)
{
    size_t  i;

    *value = fuzz_copy(pool, raw->data, raw->len);
    value->len = 0;

    for (i = 0; i < raw->len; i++) {

        if (raw->data[i] == '+') {
            value->data[value->len++] = ' ';
            continue;
        }

        if (raw->data[i] != '%') {
            value->data[value->len++] = raw->data[i];
            continue;
        }

        if (raw->len - i < 3 || fuzz_query_hex(raw->data[i + 1]) < 0
            || fuzz_query_hex(raw->data[i + 2]) < 0)
        {
            return NGX_DECLINED;
        }

        value->data[value->len++] =
                            (u_char) (fuzz_query_hex(raw->data[i + 1]) * 16
                                      + fuzz_query_hex(raw->data[i + 2]));
        i += 2;
    }

    return NGX_OK;
}


static int
fuzz_query_hex(u_char ch)
{
    return (ch >= '0' && ch <= '9') ? ch - '0'
           : (ch >= 'a' && ch <= 'f') ? ch - 'a' + 10
           : (ch >= 'A' && ch <= 'F') ? ch - 'A' + 10
           : -1;
}


static ngx_int_t
fuzz_query_judge(fuzz_query_t *query, ngx_str_t **limit, ngx_str_t **platform)
{
    size_t      k;
    ngx_str_t  *name, *value;
    ngx_uint_t  i, n, limits, platforms;

    limits = 0;
    platforms = 0;

    for (i = 0; i < query->n; i++) {
        name = &query->param[i].name;
        value = &query->param[i].value;

        if (fuzz_is(name, "limit")) {
            limits++;
            *limit = value;

        } else if (fuzz_is(name, "platform")) {
            platforms++;
            *platform = value;

        } else if (fuzz_query_conf.unknown_args == NGX_CONVOTIC_ARGS_REJECT
                   && !fuzz_query_forwards(name))
        {
            return NGX_DECLINED;
        }
    }

    if (limits > 1 || platforms > 1) {
        return NGX_DECLINED;
    }

    if (*limit) {

        if (!fuzz_digits(*limit)) {
            return NGX_DECLINED;
        }

        for (n = 0, k = 0; k < (*limit)->len; k++) {
            n = ngx_min(n * 10 + ((*limit)->data[k] - '0'), 1000000);
        }

        if (n < 1 || n > FUZZ_QUERY_LIMIT) {
            return NGX_DECLINED;
        }
    }

    if (*platform == NULL) {
        return NGX_OK;
    }

    for (i = 0; i < 3; i++) {
        if (fuzz_equal(*platform, &fuzz_query_platforms[i])) {
            return NGX_OK;
        }
    }

    return NGX_DECLINED;
}


static ngx_uint_t
fuzz_query_forwards(ngx_str_t *name)
{
    ngx_str_t   *forwarded;
    ngx_uint_t   i;

    if (fuzz_query_conf.forward_args == NULL) {
        return 0;
    }

    forwarded = fuzz_query_conf.forward_args->elts;

    for (i = 0; i < fuzz_query_conf.forward_args->nelts; i++) {
        if (fuzz_equal(&forwarded[i], name)) {
            return 1;
        }
    }

    return 0;
}


/* the canonical query has the parameters that count, and no others */

static void
fuzz_query_passed(ngx_pool_t *pool, ngx_convotic_ctx_t *ctx,
    fuzz_query_t *query, ngx_str_t *limit, ngx_str_t *platform)
{
    size_t               i;
    u_char               ch;
    ngx_int_t            rc, n;
    ngx_uint_t           k, at, count;
    fuzz_query_param_t  *param;

    static fuzz_query_t  canonical;

    for (i = 0; i < ctx->query.len; i++) {
        ch = ctx->query.data[i];

        fuzz_assert((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z')
                    || (ch >= '0' && ch <= '9')
                    || memchr("-._~%=&", ch, 7), "a character to be encoded");
    }

    rc = fuzz_query_split(pool, &ctx->query, &canonical);
    fuzz_assert(rc == NGX_OK, "the canonical query is malformed");

    param = canonical.param;
    at = 0;

    if (platform) {
        fuzz_assert(canonical.n > at && fuzz_is(&param[at].name, "platform")
                    && fuzz_equal(&param[at].value, platform)
                    && fuzz_equal(&ctx->platform, platform),
                    "another platform");
        at++;

    } else {
        fuzz_assert(ctx->platform.len == 0, "a platform that was not given");
    }

    n = limit ? ngx_atoi(limit->data, limit->len) : FUZZ_QUERY_DEFAULT;

    fuzz_assert(canonical.n > at && fuzz_is(&param[at].name, "limit")
                && fuzz_equal(&param[at].value, &ctx->limit_text)
                && ctx->limit_text.data[0] != '0'
                && ngx_atoi(ctx->limit_text.data, ctx->limit_text.len) == n
                && ctx->limit == (ngx_uint_t) n, "another limit");
    at++;

    count = 0;

    for (k = 0; k < query->n; k++) {
        count += fuzz_query_forwards(&query->param[k].name);
    }

    fuzz_assert(canonical.n == at + count, "a parameter more or less");

    for ( /* void */ ; at < canonical.n; at++) {
        fuzz_assert(fuzz_query_forwards(&param[at].name),
                    "a parameter that is not to be forwarded");
    }
}


static void
fuzz_query_refused(ngx_convotic_ctx_t *ctx)
{
    ngx_str_t  *message;

    message = &ctx->answer.message;

    fuzz_assert(ctx->answer.status == NGX_HTTP_BAD_REQUEST
                && strcmp(ctx->answer.code, "INVALID_REQUEST") == 0,
                "another error");

    fuzz_assert(fuzz_is(message, "Malformed query string")
                || fuzz_equal(message, &fuzz_query_conf.limit_error)
                || fuzz_equal(message, &fuzz_query_conf.platforms_error)
                || fuzz_is(message,
                           "Parameter 'limit' must appear at most once")
                || fuzz_is(message,
                           "Parameter 'platform' must appear at most once")
                || (fuzz_begins(message, "Unknown parameter '")
                    && message->data[message->len - 1] == '\''),
                "a text that is not documented");
}


/* each byte encoded, in both cases */

static void
fuzz_query_spell(ngx_pool_t *pool, fuzz_query_t *query, ngx_uint_t backwards,
    ngx_str_t *args)
{
    u_char      *p;
    size_t       i, len;
    ngx_str_t   *part;
    ngx_uint_t   k, n;
    const char  *hex;

    len = 1;

    for (k = 0; k < query->n; k++) {
        len += 3 * (query->param[k].name.len + query->param[k].value.len) + 3;
    }

    p = ngx_pnalloc(pool, len);
    fuzz_assert(p, "no memory");

    args->data = p;
    *p++ = '&';

    for (k = 0; k < query->n; k++) {

        part = (ngx_str_t *) &query->param[backwards ? query->n - 1 - k : k];

        for (n = 0; n < 2; n++) {

            for (i = 0; i < part[n].len; i++) {
                hex = (i & 1) ? "0123456789ABCDEF" : "0123456789abcdef";

                *p++ = '%';
                *p++ = hex[part[n].data[i] >> 4];
                *p++ = hex[part[n].data[i] & 0x0f];
            }

            *p++ = n ? '&' : '=';
        }
    }

    args->len = p - args->data;
}
