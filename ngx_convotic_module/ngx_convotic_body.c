
/*
 * Owns the form of cached bodies, in memory and in Redis.
 *
 * An envelope is text: lines that bind it, lines about it, an empty line, the
 * body as the upstream sent it and, once a client has asked for that, the same
 * as gzip.
 *
 *     convotic-body 2
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
 *     gzip 912
 *
 * "gzip 0" says that there is none yet, "gzip none" that it would hardly be
 * any shorter.  None of the values can have a line's end in it.  In memory the
 * envelope is followed by nothing and never changes; what is known of it
 * points into it.  It is freed when nobody holds it.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_digest.h"
#include "ngx_convotic_body.h"


#define NGX_CONVOTIC_BODY_MAGIC        "convotic-body "
#define NGX_CONVOTIC_BODY_VERSION      "2"

#define NGX_CONVOTIC_BODY_HEADERS_MAX  32

/* a copy from a clock that is this much ahead of ours is not believed */
#define NGX_CONVOTIC_BODY_SKEW         60000   /* ms */


static ngx_convotic_body_t *ngx_convotic_body_alloc(size_t len,
    ngx_uint_t nheaders, ngx_log_t *log);
static ngx_int_t ngx_convotic_body_read(ngx_convotic_body_t *body);
static ngx_int_t ngx_convotic_body_read_times(ngx_convotic_body_t *body,
    u_char **pos, u_char *last);
static ngx_int_t ngx_convotic_body_read_gzip(ngx_convotic_body_t *body,
    u_char **pos, u_char *last, int64_t *gzip);
static ngx_int_t ngx_convotic_body_read_headers(ngx_convotic_body_t *body,
    u_char **pos, u_char *last);
static ngx_int_t ngx_convotic_body_line(u_char **pos, u_char *last,
    const char *name, ngx_str_t *value);
static ngx_int_t ngx_convotic_body_number(u_char **pos, u_char *last,
    const char *name, int64_t *n);
static ngx_uint_t ngx_convotic_body_is_etag(ngx_str_t *etag);
static ngx_uint_t ngx_convotic_body_equal(ngx_str_t *a, ngx_str_t *b);
static void ngx_convotic_body_cleanup(void *data);
static int64_t ngx_convotic_body_now(void);


ngx_convotic_body_t *
ngx_convotic_body_create(ngx_convotic_body_parts_t *parts, ngx_log_t *log)
{
    u_char                 *p;
    size_t                  len, head;
    ngx_uint_t              i, n;
    ngx_convotic_body_t    *body;
    ngx_convotic_header_t  *header;

    n = parts->nheaders;
    header = parts->headers;

    head = sizeof(NGX_CONVOTIC_BODY_MAGIC NGX_CONVOTIC_BODY_VERSION
                  "\nworkspace \ngeneration \nrun-id \nnamespace \nquery \n"
                  "stored \nfresh \nstale \netag \nlength \ngzip \n\n")
           + sizeof("none") + 5 * NGX_INT64_LEN
           + parts->workspace.len + parts->generation.len + parts->run_id.len
           + parts->ns.len + parts->query.len + parts->etag.len;

    for (i = 0; i < n; i++) {
        head += sizeof("header : \n") + header[i].name.len
                + header[i].value.len;
    }

    if (n > NGX_CONVOTIC_BODY_HEADERS_MAX || head > NGX_CONVOTIC_BODY_OVERHEAD)
    {
        return NULL;
    }

    len = head + parts->content.len + parts->gzip.len;

    body = ngx_convotic_body_alloc(len, n, log);
    if (body == NULL) {
        return NULL;
    }

    p = body->envelope.data;

    p = ngx_sprintf(p, NGX_CONVOTIC_BODY_MAGIC NGX_CONVOTIC_BODY_VERSION
                    "\nworkspace %V\ngeneration %V\nrun-id %V\n"
                    "namespace %V\nquery %V\n",
                    &parts->workspace, &parts->generation, &parts->run_id,
                    &parts->ns, &parts->query);

    p = ngx_sprintf(p, "stored %L\nfresh %M\nstale %M\netag %V\n",
                    ngx_convotic_body_now() - (int64_t) parts->age,
                    parts->fresh + parts->age, parts->stale, &parts->etag);

    for (i = 0; i < n; i++) {
        p = ngx_sprintf(p, "header %V: %V\n", &header[i].name,
                        &header[i].value);
    }

    p = ngx_sprintf(p, "length %uz\n", parts->content.len);
    p = parts->plain ? ngx_sprintf(p, "gzip none\n\n")
                     : ngx_sprintf(p, "gzip %uz\n\n", parts->gzip.len);

    p = ngx_cpymem(p, parts->content.data, parts->content.len);

    if (parts->gzip.len) {
        p = ngx_cpymem(p, parts->gzip.data, parts->gzip.len);
    }

    body->envelope.len = p - body->envelope.data;

    /* one reader for all: what it does not take from here is not stored */

    if (ngx_convotic_body_read(body) != NGX_OK) {
        ngx_free(body);
        return NULL;
    }

    return body;
}


ngx_int_t
ngx_convotic_body_parse(ngx_str_t *envelope, ngx_log_t *log,
    ngx_convotic_body_t **body)
{
    u_char               *p, *last;
    ngx_int_t             rc;
    ngx_str_t             version;
    ngx_convotic_body_t  *b;

    p = envelope->data;
    last = p + envelope->len;

    if (ngx_convotic_body_line(&p, last, NGX_CONVOTIC_BODY_MAGIC, &version)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (version.len != sizeof(NGX_CONVOTIC_BODY_VERSION) - 1
        || ngx_memcmp(version.data, NGX_CONVOTIC_BODY_VERSION, version.len)
           != 0)
    {
        return NGX_DECLINED;
    }

    b = ngx_convotic_body_alloc(envelope->len, NGX_CONVOTIC_BODY_HEADERS_MAX,
                                log);
    if (b == NULL) {
        return NGX_ABORT;
    }

    ngx_memcpy(b->envelope.data, envelope->data, envelope->len);
    b->envelope.len = envelope->len;

    rc = ngx_convotic_body_read(b);

    if (rc == NGX_OK && b->age >= b->fresh + b->stale) {
        rc = NGX_DECLINED;
    }

    if (rc != NGX_OK) {
        ngx_free(b);
        return rc;
    }

    *body = b;

    return NGX_OK;
}


void
ngx_convotic_body_hold(ngx_convotic_body_t *body)
{
    body->refs++;
}


void
ngx_convotic_body_release(ngx_convotic_body_t *body)
{
    if (--body->refs == 0) {
        ngx_free(body);
    }
}


ngx_int_t
ngx_convotic_body_give(ngx_convotic_body_t *body, ngx_pool_t *pool)
{
    ngx_pool_cleanup_t  *cln;

    cln = ngx_pool_cleanup_add(pool, 0);

    if (cln == NULL) {
        ngx_convotic_body_release(body);
        return NGX_ERROR;
    }

    cln->handler = ngx_convotic_body_cleanup;
    cln->data = body;

    return NGX_OK;
}


ngx_uint_t
ngx_convotic_body_is_for(ngx_convotic_body_t *body, ngx_convotic_ctx_t *ctx)
{
    return ngx_convotic_body_equal(&body->workspace, &ctx->workspace)
           && ngx_convotic_body_equal(&body->query, &ctx->query)
           && ngx_convotic_body_equal(&body->ns, &ctx->cache.ns);
}


ngx_uint_t
ngx_convotic_body_is_of(ngx_convotic_body_t *body, ngx_str_t *generation,
    ngx_str_t *run_id)
{
    return ngx_convotic_body_equal(&body->generation, generation)
           && ngx_convotic_body_equal(&body->run_id, run_id);
}


/* by the own clock: the wall's may be stepped while the body is here */

ngx_msec_t
ngx_convotic_body_age(ngx_convotic_body_t *body)
{
    return body->age + (ngx_current_msec - body->since);
}


/* rounded down, so that what has expired has a negative one */

ngx_int_t
ngx_convotic_body_ttl(ngx_convotic_body_t *body)
{
    ngx_msec_t  age;

    age = ngx_convotic_body_age(body);

    return (body->fresh > age)
           ? (ngx_int_t) (body->fresh - age) / 1000
           : -((ngx_int_t) (age - body->fresh) / 1000) - 1;
}


ngx_str_t *
ngx_convotic_body_kept(ngx_str_t *name, ngx_str_t *value)
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


ngx_int_t
ngx_convotic_body_etag(ngx_pool_t *pool, ngx_convotic_digest_t *digest,
    ngx_str_t *content, ngx_str_t *etag)
{
    u_char  hex[NGX_CONVOTIC_HEX_LEN], *p;

    p = ngx_pnalloc(pool, NGX_CONVOTIC_BODY_ETAG_LEN);

    if (p == NULL
        || ngx_convotic_digest_hex(digest, content, 1, hex) != NGX_OK)
    {
        return NGX_ERROR;
    }

    etag->data = p;

    *p++ = '"';
    p = ngx_cpymem(p, hex, NGX_CONVOTIC_BODY_ETAG_HEX);
    *p++ = '"';

    etag->len = p - etag->data;

    return NGX_OK;
}


/* the headers, the tag of the gzip form and the envelope follow the body */

static ngx_convotic_body_t *
ngx_convotic_body_alloc(size_t len, ngx_uint_t nheaders, ngx_log_t *log)
{
    size_t                size;
    ngx_convotic_body_t  *body;

    size = sizeof(ngx_convotic_body_t)
           + nheaders * sizeof(ngx_convotic_header_t)
           + NGX_CONVOTIC_BODY_ETAG_LEN + sizeof("-gzip") + len;

    body = ngx_alloc(size, log);
    if (body == NULL) {
        return NULL;
    }

    ngx_memzero(body, sizeof(ngx_convotic_body_t));

    body->refs = 1;
    body->size = size;
    body->since = ngx_current_msec;
    body->headers = (ngx_convotic_header_t *) (body + 1);
    body->gzip_etag.data = (u_char *) (body->headers + nheaders);
    body->envelope.data = body->gzip_etag.data + NGX_CONVOTIC_BODY_ETAG_LEN
                          + sizeof("-gzip");
    return body;
}


static ngx_int_t
ngx_convotic_body_read(ngx_convotic_body_t *body)
{
    u_char     *p, *last;
    int64_t     length, gzip;
    ngx_int_t   rc;
    ngx_str_t   version;

    p = body->envelope.data;
    last = p + body->envelope.len;

    if (ngx_convotic_body_line(&p, last, NGX_CONVOTIC_BODY_MAGIC, &version)
           != NGX_OK
        || ngx_convotic_body_line(&p, last, "workspace ", &body->workspace)
           != NGX_OK
        || ngx_convotic_body_line(&p, last, "generation ", &body->generation)
           != NGX_OK
        || ngx_convotic_body_line(&p, last, "run-id ", &body->run_id)
           != NGX_OK
        || ngx_convotic_body_line(&p, last, "namespace ", &body->ns)
           != NGX_OK
        || ngx_convotic_body_line(&p, last, "query ", &body->query)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    rc = ngx_convotic_body_read_times(body, &p, last);

    if (rc != NGX_OK) {
        return rc;
    }

    if (ngx_convotic_body_line(&p, last, "etag ", &body->etag) != NGX_OK
        || !ngx_convotic_body_is_etag(&body->etag)
        || ngx_convotic_body_read_headers(body, &p, last) != NGX_OK
        || ngx_convotic_body_number(&p, last, "length ", &length) != NGX_OK
        || ngx_convotic_body_read_gzip(body, &p, last, &gzip) != NGX_OK
        || p == last || *p++ != '\n' || last - p != length + gzip)
    {
        return NGX_ERROR;
    }

    body->content.data = p;
    body->content.len = length;

    body->gzip.data = p + length;
    body->gzip.len = gzip;

    p = ngx_cpymem(body->gzip_etag.data, body->etag.data,
                   body->etag.len - 1);
    p = ngx_cpymem(p, "-gzip\"", sizeof("-gzip\"") - 1);
    body->gzip_etag.len = p - body->gzip_etag.data;

    return NGX_OK;
}


static ngx_int_t
ngx_convotic_body_read_times(ngx_convotic_body_t *body, u_char **pos,
    u_char *last)
{
    int64_t  stored, fresh, stale, age;

    if (ngx_convotic_body_number(pos, last, "stored ", &stored) != NGX_OK
        || ngx_convotic_body_number(pos, last, "fresh ", &fresh) != NGX_OK
        || ngx_convotic_body_number(pos, last, "stale ", &stale) != NGX_OK)
    {
        return NGX_ERROR;
    }

    age = ngx_convotic_body_now() - stored;

    if (age < -NGX_CONVOTIC_BODY_SKEW) {
        return NGX_DECLINED;
    }

    body->age = (ngx_msec_t) ngx_max(age, 0);
    body->fresh = (ngx_msec_t) fresh;
    body->stale = (ngx_msec_t) stale;

    return NGX_OK;
}


static ngx_int_t
ngx_convotic_body_read_gzip(ngx_convotic_body_t *body, u_char **pos,
    u_char *last, int64_t *gzip)
{
    ngx_str_t   value;
    u_char     *p;

    p = *pos;

    if (ngx_convotic_body_number(pos, last, "gzip ", gzip) == NGX_OK) {
        return NGX_OK;
    }

    *pos = p;
    *gzip = 0;
    body->plain = 1;

    if (ngx_convotic_body_line(pos, last, "gzip ", &value) != NGX_OK
        || value.len != 4 || ngx_memcmp(value.data, "none", 4) != 0)
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_convotic_body_read_headers(ngx_convotic_body_t *body, u_char **pos,
    u_char *last)
{
    u_char                 *colon;
    ngx_int_t               rc;
    ngx_str_t               line, name, value, *kept;
    ngx_convotic_header_t  *header;

    for ( ;; ) {

        rc = ngx_convotic_body_line(pos, last, "header ", &line);

        if (rc != NGX_OK) {
            return (rc == NGX_DECLINED) ? NGX_OK : NGX_ERROR;
        }

        colon = ngx_strlchr(line.data, line.data + line.len, ':');

        if (colon == NULL || colon + 1 == line.data + line.len
            || colon[1] != ' '
            || body->nheaders == NGX_CONVOTIC_BODY_HEADERS_MAX)
        {
            return NGX_ERROR;
        }

        name.data = line.data;
        name.len = colon - line.data;
        value.data = colon + 2;
        value.len = line.data + line.len - value.data;

        kept = ngx_convotic_body_kept(&name, &value);
        if (kept == NULL) {
            return NGX_ERROR;
        }

        header = &body->headers[body->nheaders++];
        header->name = *kept;
        header->value = value;
    }
}


/* a line that begins with name; *pos moves behind it */

static ngx_int_t
ngx_convotic_body_line(u_char **pos, u_char *last, const char *name,
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

    end = memchr(p, '\n', last - p);
    if (end == NULL) {
        return NGX_ERROR;
    }

    value->data = p;
    value->len = end - p;
    *pos = end + 1;

    return NGX_OK;
}


static ngx_int_t
ngx_convotic_body_number(u_char **pos, u_char *last, const char *name,
    int64_t *n)
{
    off_t      value;
    ngx_str_t  text;

    if (ngx_convotic_body_line(pos, last, name, &text) != NGX_OK) {
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


/* as ngx_convotic_body_etag() makes them */

static ngx_uint_t
ngx_convotic_body_is_etag(ngx_str_t *etag)
{
    size_t  i;
    u_char  ch;

    if (etag->len != NGX_CONVOTIC_BODY_ETAG_LEN
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


static ngx_uint_t
ngx_convotic_body_equal(ngx_str_t *a, ngx_str_t *b)
{
    return a->len == b->len
           && (a->len == 0 || ngx_memcmp(a->data, b->data, a->len) == 0);
}


static void
ngx_convotic_body_cleanup(void *data)
{
    ngx_convotic_body_release(data);
}


/* the wall clock, for other nodes read it too; in ms */

static int64_t
ngx_convotic_body_now(void)
{
    ngx_time_t  *tp;

    tp = ngx_timeofday();

    return (int64_t) tp->sec * 1000 + tp->msec;
}
