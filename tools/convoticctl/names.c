
/*
 * Owns the walk over a part of the key space, which is neither short nor
 * atomic: names come and go meanwhile.  A names_t is in memory whole, some
 * hundred bytes a name.  records.c walks over records, doctor_store.c over
 * generations and rate windows.
 */


#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem.h"
#include "names.h"


#define NAMES_SCAN_COUNT  "1000"        /* looked at in a call of SCAN */
#define NAMES_BATCH       500           /* pipelined commands */
#define NAMES_CURSOR      32            /* bytes, with its NUL */


void
names_free(names_t *names)
{
    size_t  i;

    for (i = 0; i < names->nelts; i++) {
        free(names->elts[i].data);
    }

    free(names->elts);
    memset(names, 0, sizeof(names_t));
}


void
names_push(names_t *names, const char *data, size_t len)
{
    text_t  *name;

    names->elts = mem_grow(names->elts, names->nelts, &names->nalloc,
                           sizeof(text_t));

    name = &names->elts[names->nelts++];
    name->data = mem_copy(data, len);
    name->len = len;
}


/* SCAN may return a name more than once */

static void
names_unique(names_t *names)
{
    size_t  i, n;

    if (names->nelts == 0) {
        return;
    }

    qsort(names->elts, names->nelts, sizeof(text_t), text_compare);

    for (n = 0, i = 1; i < names->nelts; i++) {

        if (text_compare(&names->elts[n], &names->elts[i]) == 0) {
            free(names->elts[i].data);

        } else {
            names->elts[++n] = names->elts[i];
        }
    }

    names->nelts = n + 1;
}


/* the prefix and kind, which are no pattern themselves, and an asterisk */

static char *
names_pattern(const char *prefix, const char *kind)
{
    char        *pattern, *p;
    const char  *s;

    pattern = mem_realloc(NULL, 2 * strlen(prefix) + strlen(kind) + 2);
    p = pattern;

    for (s = prefix; *s != '\0'; s++) {
        if (strchr("*?[]\\^-", *s) != NULL) {
            *p++ = '\\';
        }

        *p++ = *s;
    }

    sprintf(p, "%s*", kind);

    return pattern;
}


/* adds a page; the next cursor is at cursor */

static bool
names_scan_page(conn_t *c, const char *pattern, char *cursor, names_t *names)
{
    bool         ok;
    size_t       i;
    redisReply  *reply, *page;
    const char  *argv[7] = { "SCAN", cursor, "MATCH", pattern, "COUNT",
                             NAMES_SCAN_COUNT, NULL };

    reply = conn_ask(c, REDIS_REPLY_ARRAY, argv);
    if (reply == NULL) {
        return false;
    }

    ok = reply->elements == 2
         && reply->element[0]->type == REDIS_REPLY_STRING
         && reply->element[0]->len > 0
         && reply->element[0]->len < NAMES_CURSOR
         && reply->element[1]->type == REDIS_REPLY_ARRAY;

    if (ok) {
        memcpy(cursor, reply->element[0]->str, reply->element[0]->len + 1);
        page = reply->element[1];

        for (i = 0; i < page->elements; i++) {
            if (page->element[i]->type == REDIS_REPLY_STRING) {
                names_push(names, page->element[i]->str,
                           page->element[i]->len);
            }
        }

    } else {
        conn_fail(c, "an unexpected answer to SCAN");
    }

    freeReplyObject(reply);

    return ok;
}


bool
names_scan(conn_t *c, const char *prefix, const char *kind, names_t *names)
{
    bool   ok;
    char  *pattern, cursor[NAMES_CURSOR];

    memset(names, 0, sizeof(names_t));
    pattern = names_pattern(prefix, kind);
    strcpy(cursor, "0");

    do {
        ok = names_scan_page(c, pattern, cursor, names);
    } while (ok && strcmp(cursor, "0") != 0);

    free(pattern);

    if (ok) {
        names_unique(names);

    } else {
        names_free(names);
    }

    return ok;
}


static bool
names_askable(const text_t *name)
{
    return strlen(name->data) == name->len;
}


bool
names_read(conn_t *c, const names_t *names, const char **argv,
    names_visit_pt visit, void *data)
{
    size_t       i, first, last;
    redisReply  *reply;

    for (first = 0; first < names->nelts; first = last) {
        last = first + NAMES_BATCH;
        last = last < names->nelts ? last : names->nelts;

        for (i = first; i < last; i++) {
            if (names_askable(&names->elts[i])) {
                argv[1] = names->elts[i].data;
                conn_append(c, argv);
            }
        }

        for (i = first; i < last; i++) {
            reply = NULL;

            if (names_askable(&names->elts[i])) {
                reply = conn_read(c);

                if (reply == NULL) {
                    return false;
                }
            }

            visit(data, &names->elts[i], reply);
            freeReplyObject(reply);
        }
    }

    return true;
}
