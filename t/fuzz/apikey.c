
/*
 * The check of the API key, with a Redis that answers what the input says.
 * Headers first, a line each, then an empty line.  A line of flags follows,
 * and then the key's record: a field a line, its value behind a blank.  In
 * it "\" stands in front of a byte that is meant as it is; "n" is a line's
 * end.  A value of ":" makes the reply to it an integer, one of "-" an error.
 *
 * The flags are letters: "m", the store has no "meta"; "M", asking for that
 * fails; "p", the digest comes back changed; "P", it does not; "c", it was
 * another connection in between; "a", an older record is at hand; "n", there
 * is no reply to HGETALL; "t", it is no array.  Or, with "r", what follows is
 * no record, but the reply to HGETALL as bytes.
 *
 * The verdict is that of a reading of our own: valid and denied take a whole
 * answer of a store that has "meta"; a key that is no visible ASCII is never
 * asked about; and of a record that is refused nothing is used.
 */


#include "fuzz.h"
#include "zone.h"

#include "ngx_convotic_auth.c"


#define FUZZ_APIKEY_HEADERS  32
#define FUZZ_APIKEY_FIELDS   64
#define FUZZ_APIKEY_TABLE    6144    /* a set of entries */


typedef struct {
    ngx_convotic_redis_handler_pt   handler;
    ngx_uint_t                      sent;
} fuzz_apikey_slot_t;


/* of an input */

typedef struct {
    u_char                flags[256];    /* by the letter */
    ngx_convotic_resp_t  *record;
    u_char                name[NGX_CONVOTIC_HEX_LEN];    /* in HGETALL */
    u_char                ping[NGX_CONVOTIC_HEX_LEN];
    ngx_uint_t            commands;
    ngx_uint_t            resumed;
    ngx_uint_t            distrusted;
    ngx_uint_t            number;
} fuzz_apikey_t;


static ngx_int_t fuzz_apikey_request(ngx_pool_t *pool, fuzz_input_t *in,
    ngx_http_request_t *r, ngx_str_t *key);
static void fuzz_apikey_record(ngx_pool_t *pool, fuzz_input_t *in);
static ngx_str_t fuzz_apikey_unescape(ngx_str_t *raw);
static ngx_convotic_resp_t *fuzz_apikey_string(ngx_pool_t *pool,
    ngx_str_t *text);
static void fuzz_apikey_bytes(fuzz_input_t *in);
static ngx_uint_t fuzz_apikey_visible(ngx_str_t *key);
static void fuzz_apikey_answer(ngx_pool_t *pool, ngx_convotic_ctx_t *ctx);
static void fuzz_apikey_verdict(ngx_convotic_ctx_t *ctx, ngx_int_t rc);
static void fuzz_apikey_zone(void);
static void fuzz_apikey_aged(ngx_str_t *key);
static ngx_convotic_records_e fuzz_apikey_stored(ngx_convotic_ctx_t *ctx,
    ngx_convotic_record_t *record);
static ngx_convotic_auth_e fuzz_apikey_expect(ngx_convotic_ctx_t *ctx);
static ngx_convotic_auth_e fuzz_apikey_judge(ngx_convotic_ctx_t *ctx,
    ngx_convotic_resp_t *record);
static ngx_str_t *fuzz_apikey_field(ngx_convotic_resp_t *record,
    const char *name, ngx_uint_t *n);
static ngx_uint_t fuzz_apikey_is_name(ngx_str_t *value);
static int64_t fuzz_apikey_integer(ngx_str_t *value);
static ngx_uint_t fuzz_apikey_is_created(ngx_str_t *value);
static void fuzz_apikey_refused(ngx_convotic_ctx_t *ctx, ngx_uint_t status,
    const char *message);
static void fuzz_apikey_resume(ngx_convotic_ctx_t *ctx);


static fuzz_apikey_t             fuzz_apikey;
static fuzz_apikey_slot_t        fuzz_apikey_slots[3];
static ngx_convotic_main_conf_t  fuzz_apikey_main;
static ngx_convotic_loc_conf_t   fuzz_apikey_conf;

static fuzz_zone_t               fuzz_apikey_shared;
static u_char                   *fuzz_apikey_memory[2];
static ngx_str_t                 fuzz_apikey_run_id;


void
fuzz_init(ngx_pool_t *pool)
{
    fuzz_apikey_main.digest = ngx_convotic_digest_create(pool);
    fuzz_assert(fuzz_apikey_main.digest, "no digest");

    ngx_str_set(&fuzz_apikey_main.prefix, "convotic:");

    ngx_str_set(&fuzz_apikey_run_id, "5b0c1f");

    fuzz_apikey_main.zone = &fuzz_apikey_shared.zone;

    fuzz_apikey_memory[0] = ngx_palloc(pool, FUZZ_APIKEY_TABLE);
    fuzz_apikey_memory[1] = ngx_palloc(pool, FUZZ_APIKEY_TABLE);
    fuzz_assert(fuzz_apikey_memory[0] && fuzz_apikey_memory[1], "no memory");

    /* what is known is never fresh, and refusals are not remembered */

    fuzz_apikey_conf.key_valid = 0;
    fuzz_apikey_conf.key_invalid = 0;
    fuzz_apikey_conf.key_stale = 60000;
}


void
fuzz_one(ngx_pool_t *pool, fuzz_input_t *in)
{
    size_t               i;
    ngx_int_t            rc, expected;
    ngx_str_t            key, flags;
    ngx_http_request_t  *r;
    ngx_convotic_ctx_t  *ctx;

    ngx_memzero(&fuzz_apikey, sizeof(fuzz_apikey_t));
    fuzz_apikey.number = 1;

    ctx = ngx_pcalloc(pool, sizeof(ngx_convotic_ctx_t));
    fuzz_assert(ctx, "no memory");

    r = fuzz_request(pool, &fuzz_apikey_main, &fuzz_apikey_conf);

    ctx->request = r;
    ctx->resume = fuzz_apikey_resume;

    expected = fuzz_apikey_request(pool, in, r, &key);

    flags = fuzz_until(pool, in, '\n');

    for (i = 0; i < flags.len; i++) {
        fuzz_apikey.flags[flags.data[i]] = 1;
    }

    fuzz_apikey_zone();

    if (expected == NGX_OK && fuzz_apikey.flags['a']) {
        fuzz_apikey_aged(&key);
    }

    rc = ngx_convotic_auth_start(r, ctx);

    if (expected != NGX_OK) {
        fuzz_assert(rc == NGX_DONE && fuzz_apikey.commands == 0,
                    "Redis is asked about what can be no key");
        fuzz_apikey_refused(ctx, (expected == NGX_ABORT) ? 400 : 401,
                            (expected == NGX_ABORT)
                            ? "Header 'X-API-Key' must appear at most once"
                            : (expected == NGX_DECLINED)
                              ? "Missing X-API-Key header"
                              : "Invalid API key");
        return;
    }

    fuzz_assert(rc == NGX_AGAIN && fuzz_apikey.commands == 3,
                "Redis is not asked");

    if (fuzz_apikey.flags['r']) {
        fuzz_apikey_bytes(in);

    } else {
        fuzz_apikey_record(pool, in);
    }

    fuzz_apikey_answer(pool, ctx);

    fuzz_assert(fuzz_apikey.resumed == 1, "it goes on not exactly once");

    rc = ngx_convotic_auth_done(r, ctx);

    fuzz_apikey_verdict(ctx, rc);

    if (fuzz_apikey.flags['r']) {
        ngx_convotic_resp_free(fuzz_apikey.record);
    }
}


/* NGX_OK: a key; NGX_DECLINED: none; NGX_ABORT: two; NGX_ERROR: not visible */

static ngx_int_t
fuzz_apikey_request(ngx_pool_t *pool, fuzz_input_t *in, ngx_http_request_t *r,
    ngx_str_t *key)
{
    ngx_str_t         line;
    ngx_uint_t        n, total;
    fuzz_input_t      rest;
    ngx_table_elt_t  *header;

    n = 0;
    total = 0;

    if (ngx_list_init(&r->headers_in.headers, pool, 2,
                      sizeof(ngx_table_elt_t))
        != NGX_OK)
    {
        fuzz_fail(__FILE__, __LINE__, "no memory");
    }

    for ( ;; ) {
        line = fuzz_until(pool, in, '\n');

        if (line.len == 0) {
            break;
        }

        if (total++ == FUZZ_APIKEY_HEADERS) {
            continue;
        }

        rest.pos = line.data;
        rest.last = line.data + line.len;

        header = ngx_list_push(&r->headers_in.headers);
        fuzz_assert(header, "no memory");

        ngx_memzero(header, sizeof(ngx_table_elt_t));
        header->key = fuzz_until(pool, &rest, ':');

        /* nginx takes the blanks around a value away, and no empty name */

        while (rest.pos < rest.last && *rest.pos == ' ') {
            rest.pos++;
        }

        header->value = fuzz_copy(pool, rest.pos, rest.last - rest.pos);

        if (header->key.len == 0) {
            ngx_str_set(&header->key, "x");
        }

        if (header->key.len == 9
            && strncasecmp((char *) header->key.data, "X-API-Key", 9) == 0)
        {
            *key = header->value;
            n++;
        }
    }

    if (n != 1) {
        return n ? NGX_ABORT : NGX_DECLINED;
    }

    return fuzz_apikey_visible(key) ? NGX_OK : NGX_ERROR;
}


static ngx_uint_t
fuzz_apikey_visible(ngx_str_t *key)
{
    size_t  i;

    for (i = 0; i < key->len; i++) {
        if (key->data[i] < 0x21 || key->data[i] > 0x7e) {
            return 0;
        }
    }

    return key->len > 0 && key->len <= 256;
}


static void
fuzz_apikey_record(ngx_pool_t *pool, fuzz_input_t *in)
{
    u_char                *blank;
    ngx_str_t              line, name, value;
    ngx_uint_t             n;
    ngx_convotic_resp_t   *record, *elt;

    record = ngx_pcalloc(pool, sizeof(ngx_convotic_resp_t));
    fuzz_assert(record, "no memory");

    record->type = fuzz_apikey.flags['t'] ? NGX_CONVOTIC_RESP_ERROR
                                          : NGX_CONVOTIC_RESP_ARRAY;
    record->elts = ngx_pcalloc(pool, 2 * FUZZ_APIKEY_FIELDS
                                     * sizeof(ngx_convotic_resp_t *));
    fuzz_assert(record->elts, "no memory");

    fuzz_apikey.record = record;

    for (n = 0; n < FUZZ_APIKEY_FIELDS && in->pos < in->last; n++) {
        line = fuzz_until(pool, in, '\n');

        blank = memchr(line.data, ' ', line.len);

        name = line;
        name.len = blank ? (size_t) (blank - line.data) : line.len;
        record->elts[record->nelts++] = fuzz_apikey_string(pool, &name);

        if (blank == NULL) {
            continue;
        }

        value.data = blank + 1;
        value.len = line.data + line.len - value.data;

        elt = fuzz_apikey_string(pool, &value);
        record->elts[record->nelts++] = elt;

        if (fuzz_is(&value, ":")) {
            elt->type = NGX_CONVOTIC_RESP_INTEGER;
            elt->integer = 5;
            ngx_str_null(&elt->str);

        } else if (fuzz_is(&value, "-")) {
            elt->type = NGX_CONVOTIC_RESP_ERROR;
        }
    }
}


/* as resp.c makes them: one piece of memory, with an end */

static ngx_convotic_resp_t *
fuzz_apikey_string(ngx_pool_t *pool, ngx_str_t *text)
{
    ngx_str_t             bytes;
    ngx_convotic_resp_t  *reply;

    bytes = fuzz_copy(pool, text->data, text->len);
    bytes = fuzz_apikey_unescape(&bytes);

    reply = ngx_pcalloc(pool, sizeof(ngx_convotic_resp_t) + bytes.len + 1);
    fuzz_assert(reply, "no memory");

    reply->type = NGX_CONVOTIC_RESP_STRING;
    reply->str.len = bytes.len;
    reply->str.data = (u_char *) (reply + 1);

    if (bytes.len) {
        ngx_memcpy(reply->str.data, bytes.data, bytes.len);
    }

    return reply;
}


static ngx_str_t
fuzz_apikey_unescape(ngx_str_t *raw)
{
    size_t     i;
    ngx_str_t  text;

    text.data = raw->data;
    text.len = 0;

    for (i = 0; i < raw->len; i++) {

        if (raw->data[i] == '\\' && i + 1 < raw->len) {
            i++;
            text.data[text.len++] = (raw->data[i] == 'n') ? '\n'
                                                          : raw->data[i];
            continue;
        }

        text.data[text.len++] = raw->data[i];
    }

    return text;
}


static void
fuzz_apikey_bytes(fuzz_input_t *in)
{
    ngx_convotic_resp_t         *reply;
    ngx_convotic_resp_reader_t  *reader;

    reader = ngx_convotic_resp_create(65536, 0, &fuzz_log);
    fuzz_assert(reader, "no memory");

    if (in->pos < in->last
        && ngx_convotic_resp_feed(reader, in->pos, in->last - in->pos)
           == NGX_OK
        && ngx_convotic_resp_next(reader, &reply) == NGX_OK)
    {
        fuzz_apikey.record = reply;
    }

    ngx_convotic_resp_destroy(reader);
}


/* the three replies, in their order */

static void
fuzz_apikey_answer(ngx_pool_t *pool, ngx_convotic_ctx_t *ctx)
{
    u_char               echo[NGX_CONVOTIC_HEX_LEN + 1];
    ngx_convotic_resp_t  meta, ping;

    if (fuzz_apikey.flags['n']) {

        if (fuzz_apikey.flags['r']) {
            ngx_convotic_resp_free(fuzz_apikey.record);
        }

        fuzz_apikey.record = NULL;
    }

    fuzz_apikey_slots[0].handler(ctx, fuzz_apikey.record);

    fuzz_apikey.number += fuzz_apikey.flags['c'];

    ngx_memzero(&meta, sizeof(ngx_convotic_resp_t));
    meta.type = NGX_CONVOTIC_RESP_INTEGER;
    meta.integer = !fuzz_apikey.flags['m'];

    fuzz_apikey_slots[1].handler(ctx, fuzz_apikey.flags['M'] ? NULL : &meta);

    ngx_memcpy(echo, fuzz_apikey.ping, NGX_CONVOTIC_HEX_LEN);
    echo[NGX_CONVOTIC_HEX_LEN] = '\0';
    echo[5] ^= fuzz_apikey.flags['p'];

    ngx_memzero(&ping, sizeof(ngx_convotic_resp_t));
    ping.type = NGX_CONVOTIC_RESP_STRING;
    ping.str.data = echo;
    ping.str.len = NGX_CONVOTIC_HEX_LEN;

    fuzz_apikey_slots[2].handler(ctx, fuzz_apikey.flags['P'] ? NULL : &ping);
}


static void
fuzz_apikey_verdict(ngx_convotic_ctx_t *ctx, ngx_int_t rc)
{
    ngx_str_t               *id, *workspace;
    ngx_uint_t               n;
    ngx_convotic_auth_e      expected;
    ngx_convotic_record_t    record;
    ngx_convotic_records_e   stored;

    expected = fuzz_apikey_expect(ctx);

    fuzz_assert(ctx->verdict == expected, "another verdict");

    stored = fuzz_apikey_stored(ctx, &record);

    fuzz_assert(fuzz_apikey.distrusted
                == (fuzz_apikey.record && fuzz_apikey.flags['p']
                    && !fuzz_apikey.flags['P'] && !fuzz_apikey.flags['c']),
                "distrusted, and should not be, or the other way round");

    switch (expected) {

    case NGX_CONVOTIC_AUTH_VALID:
        fuzz_assert(rc == NGX_OK, "a valid key is not let pass");

        id = fuzz_apikey_field(fuzz_apikey.record, "id", &n);
        workspace = fuzz_apikey_field(fuzz_apikey.record, "workspace", &n);

        fuzz_assert(fuzz_equal(&ctx->key_id, id)
                    && fuzz_equal(&ctx->workspace, workspace),
                    "let pass as another");
        fuzz_assert(stored == NGX_CONVOTIC_RECORDS_FRESH
                    && record.workspace_len == workspace->len
                    && memcmp(record.workspace, workspace->data,
                              workspace->len) == 0,
                    "a valid key is not stored as such");
        return;

    case NGX_CONVOTIC_AUTH_DENIED:
        fuzz_assert(rc == NGX_DONE, "a key that is denied is let pass");
        fuzz_assert(stored == NGX_CONVOTIC_RECORDS_DENIED,
                    "a key that is denied is not stored as such");
        fuzz_apikey_refused(ctx, 401, "Invalid API key");
        return;

    default: /* NGX_CONVOTIC_AUTH_UNSURE */
        break;
    }

    fuzz_assert(stored == (fuzz_apikey.flags['a']
                           ? NGX_CONVOTIC_RECORDS_FRESH
                           : NGX_CONVOTIC_RECORDS_NONE),
                "what is unsure is stored");

    if (fuzz_apikey.flags['a']) {
        fuzz_assert(rc == NGX_OK && fuzz_is(&ctx->workspace, "aged")
                    && fuzz_is(&ctx->key_id, "old"),
                    "what was known last is not used");
        return;
    }

    fuzz_assert(rc == NGX_DONE && ctx->answer.status == 503
                && ctx->answer.retry_after > 0,
                "unsure, and not said to be");
}


/* empty, as after a start */

static void
fuzz_apikey_zone(void)
{
    ngx_convotic_zone_values_t  values;

    fuzz_zone_start(&fuzz_apikey_shared);

    fuzz_apikey_shared.coherence.epoch = 1;

    ngx_convotic_records_values(&values);

    fuzz_zone_table(&fuzz_apikey_shared.tables.keys, fuzz_apikey_memory[0],
                    FUZZ_APIKEY_TABLE, values.keys);
    fuzz_zone_table(&fuzz_apikey_shared.tables.refusals,
                    fuzz_apikey_memory[1], FUZZ_APIKEY_TABLE,
                    values.refusals);
}


/* a record from some time ago */

static void
fuzz_apikey_aged(ngx_str_t *key)
{
    u_char                 digest[NGX_CONVOTIC_DIGEST_LEN];
    ngx_convotic_mark_t    mark;
    ngx_convotic_record_t  record;

    if (ngx_convotic_digest(fuzz_apikey_main.digest, key, 1, digest)
        != NGX_OK)
    {
        fuzz_fail(__FILE__, __LINE__, "no digest");
    }

    ngx_memzero(&record, sizeof(ngx_convotic_record_t));
    ngx_memcpy(record.id, "old", 3);
    record.id_len = 3;
    ngx_memcpy(record.workspace, "aged", 4);
    record.workspace_len = 4;

    ngx_convotic_records_mark(&fuzz_apikey_shared.zone, digest, &mark);
    ngx_convotic_records_key_store(&fuzz_apikey_shared.zone, digest, &mark,
                                   &fuzz_apikey_run_id, &record);
}


static ngx_convotic_records_e
fuzz_apikey_stored(ngx_convotic_ctx_t *ctx, ngx_convotic_record_t *record)
{
    ngx_convotic_records_ages_t  ages;

    ages.valid = 1000;
    ages.invalid = 1000;
    ages.stale = 1000;

    return ngx_convotic_records_key_lookup(&fuzz_apikey_shared.zone,
                                           ctx->key_digest, &ages, record);
}


static ngx_convotic_auth_e
fuzz_apikey_expect(ngx_convotic_ctx_t *ctx)
{
    if (fuzz_apikey.flags['m'] || fuzz_apikey.flags['M']
        || fuzz_apikey.flags['p'] || fuzz_apikey.flags['P']
        || fuzz_apikey.flags['c'] || fuzz_apikey.record == NULL
        || fuzz_apikey.record->type != NGX_CONVOTIC_RESP_ARRAY)
    {
        return NGX_CONVOTIC_AUTH_UNSURE;
    }

    return fuzz_apikey_judge(ctx, fuzz_apikey.record);
}


static ngx_convotic_auth_e
fuzz_apikey_judge(ngx_convotic_ctx_t *ctx, ngx_convotic_resp_t *record)
{
    size_t       i;
    ngx_str_t   *value[7];
    ngx_uint_t   k, n, good;

    static const char  *names[] = {
        "id", "workspace", "status", "rate", "expires", "name", "created"
    };

    if (record->nelts == 0) {
        return NGX_CONVOTIC_AUTH_DENIED;
    }

    if (record->nelts % 2) {
        return NGX_CONVOTIC_AUTH_UNSURE;
    }

    for (i = 0; i < record->nelts; i++) {
        if (record->elts[i]->type != NGX_CONVOTIC_RESP_STRING) {
            return NGX_CONVOTIC_AUTH_UNSURE;
        }
    }

    for (k = 0; k < 7; k++) {
        value[k] = fuzz_apikey_field(record, names[k], &n);

        if (n > 1) {
            return NGX_CONVOTIC_AUTH_UNSURE;
        }
    }

    good = value[0] && fuzz_apikey_is_name(value[0])
           && value[1] && fuzz_apikey_is_name(value[1])
           && value[2] && fuzz_is(value[2], "active");

    if (value[3]) {
        good = good && fuzz_apikey_integer(value[3]) >= 1
               && fuzz_apikey_integer(value[3]) <= NGX_CONVOTIC_RATE_MAX;
    }

    if (value[4]) {
        good = good && fuzz_apikey_integer(value[4]) > FUZZ_NOW
               && fuzz_apikey_integer(value[4]) <= 253402300799LL;
    }

    if (value[5]) {
        good = good && value[5]->len <= 1024;

        for (i = 0; i < value[5]->len; i++) {
            good = good && value[5]->data[i] >= ' ';
        }
    }

    if (value[6]) {
        good = good && fuzz_apikey_is_created(value[6]);
    }

    if (!good) {
        return NGX_CONVOTIC_AUTH_DENIED;
    }

    fuzz_assert(ctx->record.rate
                == (value[3] ? (ngx_uint_t) fuzz_apikey_integer(value[3]) : 0),
                "another rate");
    fuzz_assert(ctx->record.expires
                == (value[4] ? fuzz_apikey_integer(value[4]) : 0),
                "it expires at another time");

    return NGX_CONVOTIC_AUTH_VALID;
}


static ngx_str_t *
fuzz_apikey_field(ngx_convotic_resp_t *record, const char *name,
    ngx_uint_t *n)
{
    size_t      i;
    ngx_str_t  *value;

    *n = 0;
    value = NULL;

    for (i = 0; i + 1 < record->nelts; i += 2) {
        if (fuzz_is(&record->elts[i]->str, name)) {
            value = &record->elts[i + 1]->str;
            (*n)++;
        }
    }

    return value;
}


static ngx_uint_t
fuzz_apikey_is_name(ngx_str_t *value)
{
    size_t  i;

    for (i = 0; i < value->len; i++) {
        if (value->data[i] > 0x7f
            || (!isalnum(value->data[i])
                && memchr("._-", value->data[i], 3) == NULL))
        {
            return 0;
        }
    }

    return value->len >= 1 && value->len <= 128;
}


static int64_t
fuzz_apikey_integer(ngx_str_t *value)
{
    size_t   i;
    int64_t  n;

    if (!fuzz_digits(value) || value->len > 12) {
        return -1;
    }

    for (n = 0, i = 0; i < value->len; i++) {
        n = n * 10 + (value->data[i] - '0');
    }

    return n;
}


static ngx_uint_t
fuzz_apikey_is_created(ngx_str_t *value)
{
    size_t  i;

    if (fuzz_digits(value) && value->len <= 12) {
        return 1;
    }

    if (value->len < 10 || value->len > 40) {
        return 0;
    }

    for (i = 0; i < value->len; i++) {

        if (i < 4 ? !isdigit(value->data[i])
            : i == 4 ? value->data[i] != '-'
            : !isdigit(value->data[i])
              && memchr("-:.+TZ ", value->data[i], 7) == NULL)
        {
            return 0;
        }
    }

    return 1;
}


static void
fuzz_apikey_refused(ngx_convotic_ctx_t *ctx, ngx_uint_t status,
    const char *message)
{
    fuzz_assert(ctx->answer.status == status
                && strcmp(ctx->answer.code, (status == 401)
                                            ? "UNAUTHORIZED"
                                            : "INVALID_REQUEST") == 0
                && fuzz_is(&ctx->answer.message, message),
                "another error than is documented");
}


static void
fuzz_apikey_resume(ngx_convotic_ctx_t *ctx)
{
    fuzz_apikey.resumed++;
}


/* in place of Redis */

ngx_convotic_redis_slot_t *
ngx_convotic_redis_send(ngx_convotic_redis_t *redis, ngx_uint_t argc,
    ngx_str_t *argv, ngx_convotic_redis_handler_pt handler, void *data)
{
    fuzz_apikey_slot_t  *slot;

    fuzz_assert(argc == 2 && fuzz_apikey.commands < 3, "another command");

    slot = &fuzz_apikey_slots[fuzz_apikey.commands++];
    slot->handler = handler;

    if (fuzz_apikey.commands == 1) {
        fuzz_assert(fuzz_is(&argv[0], "HGETALL")
                    && fuzz_begins(&argv[1], "convotic:key:")
                    && argv[1].len == 13 + NGX_CONVOTIC_HEX_LEN,
                    "another name of the record");
        ngx_memcpy(fuzz_apikey.name, argv[1].data + 13, NGX_CONVOTIC_HEX_LEN);

    } else if (fuzz_apikey.commands == 2) {
        fuzz_assert(fuzz_is(&argv[0], "EXISTS")
                    && fuzz_is(&argv[1], "convotic:meta"), "another name");

    } else {
        fuzz_assert(fuzz_is(&argv[0], "PING")
                    && argv[1].len == NGX_CONVOTIC_HEX_LEN
                    && memcmp(argv[1].data, fuzz_apikey.name,
                              NGX_CONVOTIC_HEX_LEN) == 0, "another digest");
        ngx_memcpy(fuzz_apikey.ping, argv[1].data, NGX_CONVOTIC_HEX_LEN);
    }

    return (ngx_convotic_redis_slot_t *) slot;
}


void
ngx_convotic_redis_cancel(ngx_convotic_redis_slot_t *slot)
{
}


ngx_uint_t
ngx_convotic_redis_is_ready(ngx_convotic_redis_t *redis)
{
    return 1;
}


ngx_uint_t
ngx_convotic_redis_number(ngx_convotic_redis_t *redis)
{
    return fuzz_apikey.number;
}


ngx_str_t *
ngx_convotic_redis_run_id(ngx_convotic_redis_t *redis)
{
    return &fuzz_apikey_run_id;
}


void
ngx_convotic_redis_complain(ngx_convotic_redis_t *redis, const char *code,
    const char *text)
{
}


void
ngx_convotic_redis_distrust(ngx_convotic_redis_t *redis)
{
    fuzz_apikey.distrusted = 1;
}


/* nobody else asks; no address has a budget */

ngx_int_t
ngx_convotic_flight_join(ngx_convotic_flights_t *flights,
    ngx_convotic_ctx_t *ctx, ngx_convotic_flight_kind_e kind,
    const u_char *name, ngx_msec_t wait, ngx_msec_t lease)
{
    return NGX_DECLINED;
}


void
ngx_convotic_flight_end(ngx_convotic_flights_t *flights,
    ngx_convotic_ctx_t *ctx, ngx_convotic_flight_end_e end,
    ngx_convotic_body_t *body, ngx_convotic_answer_t *answer)
{
}
