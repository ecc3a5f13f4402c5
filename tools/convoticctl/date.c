
/*
 * Owns the forms of times on the command line and in results: all in UTC, to
 * the second, up to the year 9999.  Keeps nothing; options.c reads with it,
 * record.c writes.
 */


#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "date.h"
#include "text.h"


long long
date_duration(const char *s)
{
    size_t       len;
    long long    n, unit;
    const char  *p;

    static const char       units[] = "smhd";
    static const long long  seconds[] = { 1, 60, 3600, 86400 };

    s += (*s == '+');
    len = strlen(s);
    unit = 1;

    p = len ? strchr(units, s[len - 1]) : NULL;

    if (p != NULL) {
        unit = seconds[p - units];
        len--;
    }

    n = text_number(s, len, DATE_MAX / unit);

    return n == -1 ? -1 : n * unit;
}


/* YYYY-MM-DD or YYYY-MM-DDTHH:MM:SSZ, in UTC; unix seconds, or -1 */

static long long
date_calendar(const char *s)
{
    size_t     i;
    time_t     t;
    struct tm  tm, back;

    static const char  shape[] = "0000-00-00T00:00:00Z";

    for (i = 0; s[i] != '\0'; i++) {
        if (i >= sizeof(shape) - 1
            || (shape[i] == '0' ? !isdigit((unsigned char) s[i])
                                : s[i] != shape[i]))
        {
            return -1;
        }
    }

    if (i != sizeof("0000-00-00") - 1 && i != sizeof(shape) - 1) {
        return -1;
    }

    memset(&tm, 0, sizeof(struct tm));

    if (sscanf(s, "%4d-%2d-%2dT%2d:%2d:%2d", &tm.tm_year, &tm.tm_mon,
               &tm.tm_mday, &tm.tm_hour, &tm.tm_min, &tm.tm_sec) < 3)
    {
        return -1;
    }

    tm.tm_year -= 1900;
    tm.tm_mon -= 1;

    back = tm;
    t = timegm(&back);

    /* timegm() turns February 30 into March 1 or 2 */

    if (back.tm_mon != tm.tm_mon || back.tm_mday != tm.tm_mday
        || back.tm_hour != tm.tm_hour || back.tm_min != tm.tm_min
        || back.tm_sec != tm.tm_sec)
    {
        return -1;
    }

    return t;
}


long long
date_parse(const char *s, time_t now)
{
    long long  t;

    if (*s == '+') {
        t = date_duration(s);
        t = (t == -1) ? -1 : t + now;

    } else if (strchr(s, '-') != NULL) {
        t = date_calendar(s);

    } else {
        t = text_number(s, strlen(s), DATE_MAX);
    }

    return t <= DATE_MAX ? t : -1;
}


const char *
date_text(long long t, char *buf, size_t size)
{
    time_t     seconds;
    struct tm  tm;

    seconds = (time_t) t;
    gmtime_r(&seconds, &tm);
    strftime(buf, size, "%Y-%m-%dT%H:%M:%SZ", &tm);

    return buf;
}
