
/*
 * Owns the judgement of bytes that others wrote: on the command line, or in
 * Redis.  Nothing of these reaches a terminal but by text_escape(), or JSON
 * but by text_json().  A text_t owns its copy; free() its data.  Called by all
 * that is above.
 */


#ifndef _GNU_SOURCE
#define _GNU_SOURCE                     /* vasprintf() */
#endif

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem.h"
#include "text.h"


#define TEXT_DIGITS  18                 /* of any number: no overflow */


void
text_set(text_t *t, const char *data, size_t len)
{
    free(t->data);
    t->data = mem_copy(data, len);
    t->len = len;
}


bool
text_is(const text_t *t, const char *s)
{
    return t->data != NULL && t->len == strlen(s)
           && memcmp(t->data, s, t->len) == 0;
}


int
text_compare(const void *one, const void *two)
{
    int            rc;
    const text_t  *a, *b;

    a = one;
    b = two;

    rc = memcmp(a->data, b->data, a->len < b->len ? a->len : b->len);

    return rc ? rc : (a->len > b->len) - (a->len < b->len);
}


char *
text_vformat(const char *fmt, va_list args)
{
    char  *p;

    if (vasprintf(&p, fmt, args) == -1) {
        mem_exhausted();
    }

    return p;
}


char *
text_format(const char *fmt, ...)
{
    char     *p;
    va_list   args;

    va_start(args, fmt);
    p = text_vformat(fmt, args);
    va_end(args);

    return p;
}


bool
text_utf8(const char *s, size_t len)
{
    json_t  *json;

    json = json_stringn(s, len);
    json_decref(json);

    return json != NULL;
}


size_t
text_control(const char *s, size_t len)
{
    unsigned char  c;

    c = (unsigned char) s[0];

    if (c < 0x20 || c == 0x7f) {
        return 1;
    }

    return (c == 0xc2 && len > 1 && (unsigned char) s[1] < 0xa0) ? 2 : 0;
}


char *
text_escape(const char *s, size_t len)
{
    bool    utf8;
    char   *text, *p;
    size_t  i, n;

    utf8 = text_utf8(s, len);
    text = mem_realloc(NULL, len * 4 + 1);
    p = text;

    for (i = 0; i < len; /* void */ ) {
        n = text_control(s + i, len - i);

        if (n == 0 && (s[i] == '\\' || (!utf8 && (s[i] & 0x80)))) {
            n = 1;
        }

        if (n == 0) {
            *p++ = s[i++];
        }

        for ( /* void */ ; n > 0; n--) {
            p += sprintf(p, "\\x%02x", (unsigned char) s[i++]);
        }
    }

    *p = '\0';

    return text;
}


json_t *
text_json(const char *s, size_t len)
{
    char    *text;
    json_t  *json;

    json = json_stringn(s, len);

    if (json == NULL) {
        text = text_escape(s, len);
        json = json_string(text);
        free(text);
    }

    return json;
}


bool
text_word(const char *s, size_t len)
{
    size_t  i;

    if (len == 0 || len > TEXT_WORD_MAX) {
        return false;
    }

    for (i = 0; i < len; i++) {
        if (!((s[i] >= 'A' && s[i] <= 'Z') || (s[i] >= 'a' && s[i] <= 'z')
              || (s[i] >= '0' && s[i] <= '9') || s[i] == '.' || s[i] == '_'
              || s[i] == '-'))
        {
            return false;
        }
    }

    return true;
}


long long
text_number(const char *s, size_t len, long long max)
{
    size_t     i;
    long long  n;

    if (len == 0 || len > TEXT_DIGITS || (len > 1 && s[0] == '0')) {
        return -1;
    }

    n = 0;

    for (i = 0; i < len; i++) {
        if (s[i] < '0' || s[i] > '9') {
            return -1;
        }

        n = n * 10 + (s[i] - '0');
    }

    return n <= max ? n : -1;
}
