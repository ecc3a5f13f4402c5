
/*
 * Envelopes.  The first line of an input says how it is meant: "parse", and
 * what follows is an envelope out of a Redis that anybody may have written
 * to; "compose", and what follows are the lines that one is made of, in the
 * order of its own, and the body.  "@" in an envelope is its right beginning.
 *
 * What was composed reads back as it was, also where it is cut: then not at
 * all.  What is accepted for a request is marked, letter by letter, with the
 * request's workspace, namespace and query, and with the generation.
 */


#include "fuzz.h"

#include "ngx_convotic_conf.h"
#include "ngx_convotic_body.h"


#define FUZZ_ENVELOPE_HEADERS  40

#define FUZZ_ENVELOPE_WORKSPACE   "acme"
#define FUZZ_ENVELOPE_GENERATION  "1774878120000000"
#define FUZZ_ENVELOPE_RUN_ID      "5b0c1f"
#define FUZZ_ENVELOPE_NS          "api.example.com /v1/contacts"
#define FUZZ_ENVELOPE_QUERY       "platform=line&limit=10"

#define FUZZ_ENVELOPE_HEAD                                                    \
    "convotic-body 2\nworkspace " FUZZ_ENVELOPE_WORKSPACE                     \
    "\ngeneration " FUZZ_ENVELOPE_GENERATION                                  \
    "\nrun-id " FUZZ_ENVELOPE_RUN_ID "\nnamespace " FUZZ_ENVELOPE_NS          \
    "\nquery " FUZZ_ENVELOPE_QUERY "\n"


static void fuzz_envelope_parse(ngx_pool_t *pool, fuzz_input_t *in);
static void fuzz_envelope_known(ngx_convotic_body_t *body);
static void fuzz_envelope_compose(ngx_pool_t *pool, fuzz_input_t *in);
static void fuzz_envelope_same(ngx_convotic_body_t *body,
    ngx_convotic_body_parts_t *parts);
static void fuzz_envelope_cut(ngx_pool_t *pool, ngx_convotic_body_t *body);
static ngx_uint_t fuzz_envelope_within(ngx_convotic_body_t *body,
    ngx_str_t *part);


void
fuzz_init(ngx_pool_t *pool)
{
}


void
fuzz_one(ngx_pool_t *pool, fuzz_input_t *in)
{
    ngx_str_t  how;

    how = fuzz_until(pool, in, '\n');

    if (fuzz_is(&how, "compose")) {
        fuzz_envelope_compose(pool, in);

    } else {
        fuzz_envelope_parse(pool, in);
    }
}


static void
fuzz_envelope_parse(ngx_pool_t *pool, fuzz_input_t *in)
{
    u_char               *p;
    size_t                n;
    ngx_int_t             rc;
    ngx_str_t             envelope, generation, run_id;
    ngx_uint_t            mine, now;
    ngx_convotic_ctx_t   *ctx;
    ngx_convotic_body_t  *body;

    envelope = fuzz_copy(pool, in->pos, in->last - in->pos);

    if (in->pos < in->last && *in->pos == '@') {
        n = sizeof(FUZZ_ENVELOPE_HEAD) - 1;

        p = ngx_pnalloc(pool, n + envelope.len);
        fuzz_assert(p, "no memory");

        ngx_memcpy(p, FUZZ_ENVELOPE_HEAD, n);
        ngx_memcpy(p + n, envelope.data + 1, envelope.len - 1);

        envelope = fuzz_copy(pool, p, n + envelope.len - 1);
    }

    rc = ngx_convotic_body_parse(&envelope, &fuzz_log, &body);

    fuzz_assert(rc == NGX_OK || rc == NGX_DECLINED || rc == NGX_ERROR,
                "neither accepted nor declined");

    if (rc != NGX_OK) {
        return;
    }

    fuzz_envelope_known(body);

    ctx = ngx_pcalloc(pool, sizeof(ngx_convotic_ctx_t));
    fuzz_assert(ctx, "no memory");

    ngx_str_set(&ctx->workspace, FUZZ_ENVELOPE_WORKSPACE);
    ngx_str_set(&ctx->cache.ns, FUZZ_ENVELOPE_NS);
    ngx_str_set(&ctx->query, FUZZ_ENVELOPE_QUERY);
    ngx_str_set(&generation, FUZZ_ENVELOPE_GENERATION);
    ngx_str_set(&run_id, FUZZ_ENVELOPE_RUN_ID);

    mine = ngx_convotic_body_is_for(body, ctx);
    now = ngx_convotic_body_is_of(body, &generation, &run_id);

    fuzz_assert((mine && now) == fuzz_begins(&envelope, FUZZ_ENVELOPE_HEAD),
                "accepted for another workspace, generation, namespace or "
                "query, or not for its own");

    ngx_convotic_body_release(body);
}


/* whatever was accepted is within its own memory, and not over */

static void
fuzz_envelope_known(ngx_convotic_body_t *body)
{
    ngx_uint_t  i;
    ngx_msec_t  age;

    fuzz_assert(body->refs == 1, "not one reference");

    fuzz_assert(fuzz_envelope_within(body, &body->workspace)
                && fuzz_envelope_within(body, &body->generation)
                && fuzz_envelope_within(body, &body->run_id)
                && fuzz_envelope_within(body, &body->ns)
                && fuzz_envelope_within(body, &body->query)
                && fuzz_envelope_within(body, &body->etag)
                && fuzz_envelope_within(body, &body->content)
                && fuzz_envelope_within(body, &body->gzip),
                "a part that is not of the envelope");

    fuzz_assert(body->etag.len == NGX_CONVOTIC_BODY_ETAG_LEN
                && body->gzip_etag.len
                   == NGX_CONVOTIC_BODY_ETAG_LEN + sizeof("-gzip") - 1
                && body->gzip_etag.data[body->gzip_etag.len - 1] == '"',
                "an entity tag of another form");

    fuzz_assert(body->gzip.len == 0 || !body->plain,
                "gzip, and not worth it");

    fuzz_assert(body->nheaders <= 32, "too many headers");

    for (i = 0; i < body->nheaders; i++) {
        fuzz_assert(fuzz_envelope_within(body, &body->headers[i].value)
                    && memchr(body->headers[i].value.data, '\n',
                              body->headers[i].value.len) == NULL
                    && memchr(body->headers[i].value.data, '\r',
                              body->headers[i].value.len) == NULL
                    && memchr(body->headers[i].value.data, '\0',
                              body->headers[i].value.len) == NULL,
                    "a header of more than a line");
    }

    age = ngx_convotic_body_age(body);

    fuzz_assert(age < body->fresh + body->stale, "it is over");
    fuzz_assert((ngx_convotic_body_ttl(body) < 0) == (age >= body->fresh),
                "fresh and stale");
}


static void
fuzz_envelope_compose(ngx_pool_t *pool, fuzz_input_t *in)
{
    ngx_int_t                   rc;
    ngx_str_t                   line, name;
    ngx_uint_t                  i;
    fuzz_input_t                numbers;
    ngx_convotic_body_t        *body, *back;
    ngx_convotic_header_t       headers[FUZZ_ENVELOPE_HEADERS];
    ngx_convotic_body_parts_t   parts;

    ngx_memzero(&parts, sizeof(ngx_convotic_body_parts_t));

    parts.workspace = fuzz_until(pool, in, '\n');
    parts.generation = fuzz_until(pool, in, '\n');
    parts.run_id = fuzz_until(pool, in, '\n');
    parts.ns = fuzz_until(pool, in, '\n');
    parts.query = fuzz_until(pool, in, '\n');

    /* age, fresh, stale, and whether it is worth a gzip */

    line = fuzz_until(pool, in, '\n');
    numbers.pos = line.data;
    numbers.last = line.data + line.len;

    parts.age = fuzz_number(&numbers, 86400000);
    (void) fuzz_byte(&numbers);
    parts.fresh = fuzz_number(&numbers, 1000000000000);
    (void) fuzz_byte(&numbers);
    parts.stale = fuzz_number(&numbers, 1000000000000);
    parts.plain = (fuzz_byte(&numbers) == 'n');

    ngx_str_set(&parts.etag, "\"0123456789abcdef0123456789abcdef\"");

    parts.headers = headers;

    for ( ;; ) {
        line = fuzz_until(pool, in, '\n');

        if (line.len == 0 || parts.nheaders == FUZZ_ENVELOPE_HEADERS) {
            break;
        }

        numbers.pos = line.data;
        numbers.last = line.data + line.len;

        name = fuzz_until(pool, &numbers, ':');
        headers[parts.nheaders].name = name;
        headers[parts.nheaders++].value = fuzz_copy(pool, numbers.pos,
                                                    numbers.last
                                                    - numbers.pos);
    }

    if (!parts.plain) {
        parts.gzip = fuzz_until(pool, in, '\0');
    }

    parts.content = fuzz_copy(pool, in->pos, in->last - in->pos);

    body = ngx_convotic_body_create(&parts, &fuzz_log);

    if (body == NULL) {

        /* a header that stays with no body, or too many of them */

        for (i = 0; i < parts.nheaders; i++) {
            if (!ngx_convotic_body_kept(&headers[i].name, &headers[i].value)) {
                return;
            }
        }

        fuzz_assert(parts.nheaders > 32, "what it is made of is refused");
        return;
    }

    fuzz_envelope_same(body, &parts);
    fuzz_assert(body->age == parts.age, "another age");

    rc = ngx_convotic_body_parse(&body->envelope, &fuzz_log, &back);

    if (parts.fresh + parts.stale == 0) {
        fuzz_assert(rc == NGX_DECLINED, "what is over at once is accepted");

    } else {
        fuzz_assert(rc == NGX_OK, "what was composed is not accepted");
        fuzz_envelope_same(back, &parts);
        fuzz_envelope_known(back);
        fuzz_assert(back->age == body->age && back->fresh == body->fresh
                    && back->stale == body->stale
                    && fuzz_equal(&back->gzip_etag, &body->gzip_etag)
                    && fuzz_equal(&back->envelope, &body->envelope),
                    "what was composed reads back as something else");
        ngx_convotic_body_release(back);

        fuzz_envelope_cut(pool, body);
    }

    ngx_convotic_body_release(body);
}


static void
fuzz_envelope_same(ngx_convotic_body_t *body,
    ngx_convotic_body_parts_t *parts)
{
    ngx_uint_t  i;

    fuzz_assert(fuzz_equal(&body->workspace, &parts->workspace)
                && fuzz_equal(&body->generation, &parts->generation)
                && fuzz_equal(&body->run_id, &parts->run_id)
                && fuzz_equal(&body->ns, &parts->ns)
                && fuzz_equal(&body->query, &parts->query),
                "bound to something else");

    fuzz_assert(fuzz_equal(&body->content, &parts->content)
                && fuzz_equal(&body->gzip, &parts->gzip)
                && fuzz_equal(&body->etag, &parts->etag)
                && body->plain == parts->plain, "another body");

    fuzz_assert(body->fresh == parts->fresh + parts->age
                && body->stale == parts->stale, "fresh for another time");

    fuzz_assert(body->nheaders == parts->nheaders, "a header more or less");

    for (i = 0; i < body->nheaders; i++) {
        fuzz_assert(strncasecmp((char *) body->headers[i].name.data,
                                (char *) parts->headers[i].name.data,
                                body->headers[i].name.len) == 0
                    && fuzz_equal(&body->headers[i].value,
                                  &parts->headers[i].value),
                    "another header");
    }
}


/* one byte less, at either end, and one more */

static void
fuzz_envelope_cut(ngx_pool_t *pool, ngx_convotic_body_t *body)
{
    ngx_str_t             envelope;
    ngx_convotic_body_t  *cut;

    envelope = fuzz_copy(pool, body->envelope.data, body->envelope.len - 1);
    fuzz_assert(ngx_convotic_body_parse(&envelope, &fuzz_log, &cut)
                == NGX_ERROR, "a cut envelope is accepted");

    envelope = fuzz_copy(pool, body->envelope.data + 1,
                         body->envelope.len - 1);
    fuzz_assert(ngx_convotic_body_parse(&envelope, &fuzz_log, &cut)
                == NGX_ERROR, "an envelope without a beginning is accepted");

    envelope.data = ngx_pnalloc(pool, body->envelope.len + 1);
    fuzz_assert(envelope.data, "no memory");

    envelope.len = body->envelope.len + 1;
    ngx_memcpy(envelope.data, body->envelope.data, body->envelope.len);
    envelope.data[body->envelope.len] = 'x';

    fuzz_assert(ngx_convotic_body_parse(&envelope, &fuzz_log, &cut)
                == NGX_ERROR, "an envelope with more behind it is accepted");
}


static ngx_uint_t
fuzz_envelope_within(ngx_convotic_body_t *body, ngx_str_t *part)
{
    return part->data >= body->envelope.data
           && part->data + part->len <= body->envelope.data
                                        + body->envelope.len;
}
