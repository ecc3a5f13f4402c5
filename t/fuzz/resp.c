
/*
 * Replies of Redis.  The first line of an input chooses how its bytes are
 * fed; the rest is the stream.  In it, "~" with two more characters stands for
 * repetition: of so many bytes in front of it, and how often, for an array of
 * thousands is best written in a few.  A stream is long only where the first
 * line begins with "long", and only the first feeds are cut: thousands of
 * elements, and a long line byte by byte, are nothing but slow.
 *
 * However the bytes are cut, the replies are the same; a stream of
 * well-formed replies is delivered as a parser of our own reads it; a reply
 * is whole and within its bounds; and what is encoded is read back.
 */


#include "fuzz.h"

#include "ngx_convotic_resp.h"


/* as in resp.c, whose bounds these are */
#define FUZZ_RESP_ELEMENTS  4096
#define FUZZ_RESP_LINE      4096
#define FUZZ_RESP_DEPTH     7

#define FUZZ_RESP_STREAM    (24 * 1024)
#define FUZZ_RESP_USUAL     2048
#define FUZZ_RESP_REPLIES   64
#define FUZZ_RESP_CUTS      64
#define FUZZ_RESP_FEEDS     64      /* that are cut; what follows is not */
#define FUZZ_RESP_COMMANDS  4
#define FUZZ_RESP_SMALL     700


typedef struct {
    ngx_convotic_resp_t  *replies[FUZZ_RESP_REPLIES];
    ngx_uint_t            n;
    ngx_uint_t            failed;
    ngx_uint_t            more;      /* than there is room for */
} fuzz_resp_t;


static void fuzz_resp_expand(ngx_pool_t *pool, fuzz_input_t *in, size_t max,
    ngx_str_t *stream);
static void fuzz_resp_read(fuzz_resp_t *resp, ngx_str_t *stream, size_t max,
    ngx_uint_t skip, ngx_str_t *cuts);
static size_t fuzz_resp_cut(u_char ch);
static void fuzz_resp_free(fuzz_resp_t *resp);
static size_t fuzz_resp_whole(ngx_convotic_resp_t *reply, ngx_uint_t skip);
static ngx_uint_t fuzz_resp_equal(ngx_convotic_resp_t *a,
    ngx_convotic_resp_t *b);
static u_char *fuzz_resp_strict(u_char *p, u_char *last,
    ngx_convotic_resp_t *reply, ngx_uint_t depth, size_t *elements);
static u_char *fuzz_resp_line(u_char *p, u_char *last, int64_t *n);
static void fuzz_resp_encode(ngx_pool_t *pool, ngx_convotic_resp_t *reply);


void
fuzz_init(ngx_pool_t *pool)
{
}


void
fuzz_one(ngx_pool_t *pool, fuzz_input_t *in)
{
    u_char       *p;
    size_t        max, longest, elements;
    ngx_str_t     cuts, stream, none;
    ngx_uint_t    i, n, skip, commands;
    fuzz_resp_t   some, all;

    cuts = fuzz_until(pool, in, '\n');
    longest = FUZZ_RESP_USUAL;

    if (fuzz_begins(&cuts, "long ")) {
        cuts.data += sizeof("long ") - 1;
        cuts.len -= sizeof("long ") - 1;
        longest = FUZZ_RESP_STREAM;
    }

    cuts.len = ngx_min(cuts.len, FUZZ_RESP_CUTS);

    skip = (cuts.len && (cuts.data[0] & 1));
    max = (cuts.len && (cuts.data[0] & 2)) ? FUZZ_RESP_SMALL
                                           : FUZZ_RESP_STREAM;

    fuzz_resp_expand(pool, in, longest, &stream);

    fuzz_resp_read(&some, &stream, max, skip, &cuts);

    commands = 0;

    for (i = 0; i < some.n; i++) {
        elements = fuzz_resp_whole(some.replies[i], skip);
        fuzz_assert(elements <= FUZZ_RESP_ELEMENTS, "too many elements");

        if (elements && commands++ < FUZZ_RESP_COMMANDS) {
            fuzz_resp_encode(pool, some.replies[i]);
        }
    }

    if (max == FUZZ_RESP_STREAM) {
        ngx_str_null(&none);
        fuzz_resp_read(&all, &stream, max, skip, &none);

        /* a long line may end within one feed, and not within another */

        n = ngx_min(some.n, all.n);

        for (i = 0; i < n; i++) {
            fuzz_assert(fuzz_resp_equal(some.replies[i], all.replies[i]),
                        "another reply where the stream is cut elsewhere");
        }

        if (stream.len < FUZZ_RESP_LINE) {
            fuzz_assert(some.n == all.n && some.failed == all.failed,
                        "another end where the stream is cut elsewhere");
        }

        fuzz_resp_free(&all);
    }

    /* an own reading of what is well-formed beyond doubt */

    p = stream.data;

    if (max == FUZZ_RESP_STREAM && stream.len < FUZZ_RESP_LINE) {

        for (i = 0; i < FUZZ_RESP_REPLIES; i++) {

            elements = 0;
            p = fuzz_resp_strict(p, stream.data + stream.len,
                                 (i < some.n) ? some.replies[i] : NULL, 0,
                                 &elements);
            if (p == NULL) {
                break;
            }
        }
    }

    fuzz_resp_free(&some);
}


static void
fuzz_resp_expand(ngx_pool_t *pool, fuzz_input_t *in, size_t max,
    ngx_str_t *stream)
{
    u_char  *p, *last;
    size_t   n, len, done, times;

    static u_char  start[FUZZ_RESP_STREAM];

    p = start;
    last = p + max;

    while (in->pos < in->last && p < last) {

        if (*in->pos != '~' || in->last - in->pos < 3) {
            *p++ = *in->pos++;
            continue;
        }

        n = in->pos[1] & 0x0f;
        n = ngx_min(n, (size_t) (p - start));
        times = in->pos[2] * 41;
        in->pos += 3;

        len = n ? ngx_min(times, (size_t) (last - p - 1) / n) * n : 0;

        /* of what stands there already, twice as much each time */

        for (done = n; len; done += n, len -= n, p += n) {
            n = ngx_min(done, len);
            ngx_memcpy(p, p - done, n);
        }
    }

    *stream = fuzz_copy(pool, start, p - start);
}


/* without cuts in feeds of the usual size */

static void
fuzz_resp_read(fuzz_resp_t *resp, ngx_str_t *stream, size_t max,
    ngx_uint_t skip, ngx_str_t *cuts)
{
    u_char                      *p, *last, *feed;
    size_t                       len;
    ngx_int_t                    rc;
    ngx_uint_t                   i;
    ngx_convotic_resp_t         *reply;
    ngx_convotic_resp_reader_t  *reader;

    ngx_memzero(resp, sizeof(fuzz_resp_t));

    reader = ngx_convotic_resp_create(max, skip, &fuzz_log);
    fuzz_assert(reader, "no memory");

    p = stream->data;
    last = p + stream->len;

    for (i = 1; p < last; i++) {

        len = (cuts->len < 2 || i > FUZZ_RESP_FEEDS)
              ? NGX_CONVOTIC_RESP_FEED
              : fuzz_resp_cut(cuts->data[1 + i % (cuts->len - 1)]);
        len = ngx_min(len, (size_t) (last - p));

        feed = malloc(len);
        fuzz_assert(feed, "no memory");
        ngx_memcpy(feed, p, len);

        rc = ngx_convotic_resp_feed(reader, feed, len);

        free(feed);

        fuzz_assert(rc == NGX_OK, "a feed that is refused");
        p += len;

        while ((rc = ngx_convotic_resp_next(reader, &reply)) == NGX_OK) {

            fuzz_assert(reply, "a reply that is none");

            if (resp->n == FUZZ_RESP_REPLIES) {
                ngx_convotic_resp_free(reply);
                resp->more = 1;
                continue;
            }

            resp->replies[resp->n++] = reply;
        }

        if (rc == NGX_ERROR) {
            resp->failed = 1;
            break;
        }

        fuzz_assert(rc == NGX_AGAIN, "neither a reply, nor again, nor error");
    }

    ngx_convotic_resp_destroy(reader);
}


static size_t
fuzz_resp_cut(u_char ch)
{
    if (ch >= '1' && ch <= '9') {
        return ch - '0';
    }

    if (ch >= 'a' && ch <= 'z') {
        return (size_t) (ch - 'a' + 1) * 315;
    }

    return (ch & 0x7f) + 1;
}


static void
fuzz_resp_free(fuzz_resp_t *resp)
{
    ngx_uint_t  i;

    for (i = 0; i < resp->n; i++) {
        ngx_convotic_resp_free(resp->replies[i]);
    }
}


/* the number of its elements, and those within them */

static size_t
fuzz_resp_whole(ngx_convotic_resp_t *reply, ngx_uint_t skip)
{
    size_t  i, n;

    fuzz_assert(reply, "an element that is NULL");

    switch (reply->type) {

    case NGX_CONVOTIC_RESP_STRING:
    case NGX_CONVOTIC_RESP_STATUS:
    case NGX_CONVOTIC_RESP_ERROR:
        fuzz_assert(reply->str.data, "a string without bytes");
        fuzz_assert(reply->str.data[reply->str.len] == '\0',
                    "a string without its end");
        /* fall through */

    case NGX_CONVOTIC_RESP_INTEGER:
    case NGX_CONVOTIC_RESP_NIL:
        fuzz_assert(reply->nelts == 0 && !reply->oversize,
                    "elements of what is no array");
        return 0;

    case NGX_CONVOTIC_RESP_ARRAY:
        fuzz_assert(!reply->oversize || (skip && reply->nelts == 0),
                    "an array that is oversize and should not be");

        n = reply->nelts;

        for (i = 0; i < reply->nelts; i++) {
            n += fuzz_resp_whole(reply->elts[i], skip);
        }

        return n;
    }

    fuzz_fail(__FILE__, __LINE__, "a reply of no type");
}


static ngx_uint_t
fuzz_resp_equal(ngx_convotic_resp_t *a, ngx_convotic_resp_t *b)
{
    size_t  i;

    if (a->type != b->type || a->integer != b->integer
        || a->nelts != b->nelts || a->oversize != b->oversize
        || !fuzz_equal(&a->str, &b->str))
    {
        return 0;
    }

    for (i = 0; i < a->nelts; i++) {
        if (!fuzz_resp_equal(a->elts[i], b->elts[i])) {
            return 0;
        }
    }

    return 1;
}


/*
 * Where a reply ends that no parser can read in another way, and that the
 * module is to have delivered as this one; NULL: there is none.
 */

static u_char *
fuzz_resp_strict(u_char *p, u_char *last, ngx_convotic_resp_t *reply,
    ngx_uint_t depth, size_t *elements)
{
    u_char                    *start, *end;
    int64_t                    n, i;
    ngx_str_t                  text;
    ngx_convotic_resp_t       *elt;
    ngx_convotic_resp_type_e   type;

    start = p;

    /* twice: the first time alone shows whether it is whole */

    if (depth == 0 && reply) {
        if (fuzz_resp_strict(p, last, NULL, 0, elements) == NULL) {
            return NULL;
        }

        *elements = 0;
    }

    if (p == last || depth >= FUZZ_RESP_DEPTH) {
        return NULL;
    }

    switch (*p++) {

    case '+':
    case '-':
        end = memchr(p, '\r', last - p);

        if (end == NULL || end + 1 == last || end[1] != '\n'
            || memchr(p, '\n', end - p))
        {
            return NULL;
        }

        type = (*start == '+') ? NGX_CONVOTIC_RESP_STATUS
                               : NGX_CONVOTIC_RESP_ERROR;
        text.data = p;
        text.len = end - p;
        p = end + 2;

        if (reply) {
            fuzz_assert(reply->type == type && fuzz_equal(&reply->str, &text),
                        "another status or error");
        }

        return p;

    case ':':
        p = fuzz_resp_line(p, last, &n);

        if (p && reply) {
            fuzz_assert(reply->type == NGX_CONVOTIC_RESP_INTEGER
                        && reply->integer == n, "another integer");
        }

        return p;

    case '$':
        p = fuzz_resp_line(p, last, &n);

        if (p == NULL || n < -1) {
            return NULL;
        }

        if (n == -1) {
            if (reply) {
                fuzz_assert(reply->type == NGX_CONVOTIC_RESP_NIL,
                            "nil is something else");
            }

            return p;
        }

        if (last - p < n + 2 || p[n] != '\r' || p[n + 1] != '\n') {
            return NULL;
        }

        text.data = p;
        text.len = n;

        if (reply) {
            fuzz_assert(reply->type == NGX_CONVOTIC_RESP_STRING
                        && fuzz_equal(&reply->str, &text), "another string");
        }

        return p + n + 2;

    case '*':
        p = fuzz_resp_line(p, last, &n);

        if (p == NULL || n < 0) {
            return NULL;
        }

        *elements += n;

        if (n > FUZZ_RESP_ELEMENTS || *elements > FUZZ_RESP_ELEMENTS) {
            return NULL;
        }

        if (reply) {
            fuzz_assert(reply->type == NGX_CONVOTIC_RESP_ARRAY
                        && reply->nelts == (size_t) n && !reply->oversize,
                        "another array");
        }

        for (i = 0; i < n; i++) {
            elt = reply ? reply->elts[i] : NULL;
            p = fuzz_resp_strict(p, last, elt, depth + 1, elements);

            if (p == NULL) {
                return NULL;
            }
        }

        return p;
    }

    return NULL;
}


/* a number as Redis writes them: no sign but "-", no zero in front */

static u_char *
fuzz_resp_line(u_char *p, u_char *last, int64_t *n)
{
    u_char     *end;
    ngx_str_t   text;
    ngx_uint_t  minus;

    end = memchr(p, '\r', last - p);

    if (end == NULL || end + 1 == last || end[1] != '\n') {
        return NULL;
    }

    minus = (p < end && *p == '-');
    text.data = p + minus;
    text.len = end - text.data;

    if (!fuzz_digits(&text) || text.len > 18
        || (text.data[0] == '0' && (text.len > 1 || minus)))
    {
        return NULL;
    }

    for (*n = 0; text.len; text.data++, text.len--) {
        *n = *n * 10 + (text.data[0] - '0');
    }

    *n = minus ? -*n : *n;

    return end + 2;
}


/* the strings of an array as a command, and what a server reads of that */

static void
fuzz_resp_encode(ngx_pool_t *pool, ngx_convotic_resp_t *reply)
{
    u_char       *p;
    size_t        i, len;
    ngx_str_t    *argv, command, none;
    fuzz_resp_t   back;

    if (reply->type != NGX_CONVOTIC_RESP_ARRAY || reply->nelts == 0
        || reply->nelts > 64)
    {
        return;
    }

    argv = ngx_pcalloc(pool, reply->nelts * sizeof(ngx_str_t));
    fuzz_assert(argv, "no memory");

    for (i = 0; i < reply->nelts; i++) {
        argv[i] = reply->elts[i]->str;

        if (argv[i].data == NULL) {
            ngx_str_set(&argv[i], "");
        }
    }

    len = ngx_convotic_resp_length(reply->nelts, argv);

    command.data = ngx_pnalloc(pool, len);
    fuzz_assert(command.data, "no memory");

    p = ngx_convotic_resp_encode(command.data, reply->nelts, argv);
    command.len = p - command.data;

    fuzz_assert(command.len <= len, "a command longer than was said");

    ngx_str_null(&none);
    fuzz_resp_read(&back, &command, FUZZ_RESP_STREAM, 0, &none);

    fuzz_assert(back.n == 1 && !back.failed
                && back.replies[0]->nelts == reply->nelts,
                "a command is read as something else");

    for (i = 0; i < reply->nelts; i++) {
        fuzz_assert(fuzz_equal(&back.replies[0]->elts[i]->str, &argv[i]),
                    "an argument is read as something else");
    }

    fuzz_resp_free(&back);
}
