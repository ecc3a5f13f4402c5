
/*
 * Owns the checks of data on the key server: the mark, the records, the
 * generations, the rate windows.  Others may have written them.  Each walk
 * counts what is wrong and names the first.  Called by doctor.c after
 * doctor_server().
 */


#include <stdlib.h>
#include <string.h>

#include "doctor_store.h"
#include "meta.h"
#include "names.h"
#include "record.h"
#include "records.h"
#include "text.h"
#include "window.h"


#define DOCTOR_GENERATION_MAX  18       /* digits */


/* names of one kind, each asked the same */

typedef struct {
    const char  *check;
    const char  *kind;
    const char  *command;

    /* of the name behind the kind, and the reply, which is never NULL */
    bool       (*good)(const char *name, size_t len, const redisReply *reply);

    const char  *fine;                  /* behind the number of names */
    const char  *wrong;                 /* behind how many of them */
    const char  *remedy;                /* behind the first of these */
} doctor_survey_t;


typedef struct {
    const doctor_survey_t  *survey;
    size_t                  prefix_len; /* of the prefix and the kind */
    size_t                  bad;
    char                   *first;
} doctor_count_t;


static bool doctor_generation_good(const char *name, size_t len,
    const redisReply *reply);
static bool doctor_rate_good(const char *name, size_t len,
    const redisReply *reply);
static bool doctor_window_good(const char *name, size_t len,
    const redisReply *reply);


static const doctor_survey_t  doctor_generations = {
    "generations", "gen:", "GET", doctor_generation_good,
    ", all plain integers",
    "are not named {workspace} with its braces or hold no plain integer",
    "\"cache purge\" repairs a value, delete a wrong name"
};

static const doctor_survey_t  doctor_rates = {
    "rates", "rate:", "PTTL", doctor_rate_good,
    " rate windows, all with an expiry",
    "rate windows have no expiry, which the gateway gives to each",
    "delete it"
};

static const doctor_survey_t  doctor_windows = {
    "windows", "rate:v1:", "GET", doctor_window_good,
    ", all as the gateway writes them",
    "hold no window, so the gateway begins one anew there",
    "see who else writes under this prefix"
};


/* what the gateway asks, whose user may see no more; -1: that is refused too */

static long long
doctor_store_exists(side_t *side)
{
    char        *name;
    long long    n;
    const char  *argv[3] = { "EXISTS", NULL, NULL };

    name = text_format("%smeta", side->ctl->prefix);
    argv[1] = name;

    if (!conn_integer(&side->conn, argv, &n)) {
        n = -1;
    }

    free(name);

    return n;
}


void
doctor_store_meta(side_t *side)
{
    long long    there;
    redisReply  *reply;
    const char  *prefix;

    prefix = side->ctl->prefix;
    reply = meta_read(&side->conn, prefix);
    there = -1;

    if (reply && reply->type == REDIS_REPLY_ERROR
        && strncmp(reply->str, "NOPERM", 6) == 0)
    {
        there = doctor_store_exists(side);
    }

    if (reply && reply->type == REDIS_REPLY_STRING
        && strcmp(reply->str, META_SCHEMA) == 0)
    {
        side_say(side, SIDE_OK, "meta", "%smeta has schema " META_SCHEMA,
                 prefix);

    } else if ((reply && reply->type == REDIS_REPLY_NIL) || there == 0) {
        side_say(side, SIDE_FAIL, "meta", "%smeta has no schema, so that the "
                 "gateway believes no record of this server; run "
                 "\"convoticctl init\"", prefix);

    } else if (reply && reply->type == REDIS_REPLY_STRING) {
        side_say(side, SIDE_FAIL, "meta", "%smeta has a schema other than "
                 META_SCHEMA "; is this the right server and prefix?", prefix);

    } else if (there == 1) {
        side_say(side, SIDE_OK, "meta", "%smeta is there; its schema may not "
                 "be read by this user", prefix);

    } else {
        if (reply && reply->type == REDIS_REPLY_ERROR) {
            conn_error_reply(&side->conn, reply);
        }

        side_say(side, SIDE_FAIL, "meta", "%smeta cannot be read: %s", prefix,
                 side->conn.error);
    }

    freeReplyObject(reply);
}


static void
doctor_records_say(side_t *side, const records_t *records)
{
    char            *name;
    size_t           i, malformed, incomplete;
    const record_t  *r, *first;

    first = NULL;
    malformed = 0;
    incomplete = 0;

    for (i = 0; i < records->nelts; i++) {
        r = &records->elts[i];

        if (record_judge(r)) {
            malformed++;
            first = first ? first : r;

        } else if (record_incomplete(r)) {
            incomplete++;
        }
    }

    if (first) {
        name = text_escape(first->redis_key.data, first->redis_key.len);
        side_say(side, SIDE_WARN, "records", "%zu of %zu are malformed, and "
                 "refused by the gateway; the first is %.200s: %s", malformed,
                 records->nelts, name, record_judge(first));
        free(name);
    }

    if (incomplete) {
        side_say(side, SIDE_WARN, "records", "%zu of %zu lack a name or the "
                 "time of their creation", incomplete, records->nelts);
    }

    if (malformed == 0 && incomplete == 0) {
        side_say(side, SIDE_OK, "records", "%zu, all well formed",
                 records->nelts);
    }
}


static void
doctor_records(side_t *side)
{
    records_t  records;

    if (records_scan(&side->conn, side->ctl->prefix, F_ID, NULL, &records)) {
        doctor_records_say(side, &records);
        records_free(&records);

    } else {
        side_say(side, SIDE_WARN, "records", "they cannot be read: %s",
                 side->conn.error);
    }
}


/* {workspace}, and a plain integer; a nil is one deleted since SCAN */

static bool
doctor_generation_good(const char *name, size_t len, const redisReply *reply)
{
    if (reply->type == REDIS_REPLY_NIL) {
        return true;
    }

    return len > 2 && name[0] == '{' && name[len - 1] == '}'
           && text_word(name + 1, len - 2)
           && reply->type == REDIS_REPLY_STRING
           && reply->len >= 1 && reply->len <= DOCTOR_GENERATION_MAX
           && strspn(reply->str, "0123456789") == reply->len;
}


/* PTTL: -1 is no expiry, -2 one deleted since SCAN */

static bool
doctor_rate_good(const char *name, size_t len, const redisReply *reply)
{
    (void) name;
    (void) len;

    return reply->type == REDIS_REPLY_INTEGER && reply->integer != -1;
}


/* a nil is one that has ended since SCAN */

static bool
doctor_window_good(const char *name, size_t len, const redisReply *reply)
{
    window_t  w;

    (void) name;
    (void) len;

    return reply->type == REDIS_REPLY_NIL
           || (reply->type == REDIS_REPLY_STRING
               && window_parse(reply->str, reply->len, &w));
}


static void
doctor_survey_visit(void *data, const text_t *name, const redisReply *reply)
{
    doctor_count_t  *count;

    count = data;

    if (reply && name->len >= count->prefix_len
        && count->survey->good(name->data + count->prefix_len,
                               name->len - count->prefix_len, reply))
    {
        return;
    }

    count->bad++;

    if (count->first == NULL) {
        count->first = text_escape(name->data, name->len);
    }
}


static void
doctor_survey(side_t *side, const doctor_survey_t *survey)
{
    conn_t          *c;
    names_t          names;
    const char      *prefix, *argv[3] = { survey->command, NULL, NULL };
    doctor_count_t   count;

    c = &side->conn;
    prefix = side->ctl->prefix;

    memset(&count, 0, sizeof(doctor_count_t));
    count.survey = survey;
    count.prefix_len = strlen(prefix) + strlen(survey->kind);

    memset(&names, 0, sizeof(names_t));

    if (!names_scan(c, prefix, survey->kind, &names)
        || !names_read(c, &names, argv, doctor_survey_visit, &count))
    {
        side_say(side, SIDE_WARN, survey->check, "they cannot be read: %s",
                 c->error);

    } else if (count.bad) {
        side_say(side, SIDE_WARN, survey->check, "%zu of %zu %s; the first is "
                 "%.200s; %s", count.bad, names.nelts, survey->wrong,
                 count.first, survey->remedy);

    } else {
        side_say(side, SIDE_OK, survey->check, "%zu%s", names.nelts,
                 survey->fine);
    }

    names_free(&names);
    free(count.first);
}


void
doctor_store_names(side_t *side)
{
    doctor_records(side);
    doctor_survey(side, &doctor_generations);
    doctor_survey(side, &doctor_rates);
    doctor_survey(side, &doctor_windows);
}
