
/*
 * Points in time and durations, as people write and read them.
 */


#ifndef _CTL_DATE_H_INCLUDED_
#define _CTL_DATE_H_INCLUDED_


#include <stddef.h>
#include <time.h>


#define DATE_MAX  253402300799LL        /* seconds, 9999-12-31T23:59:59Z */


/* "90", "90s", "15m", "12h", "30d", with or without "+"; in seconds, or -1 */
long long date_duration(const char *s);

/*
 * Unix seconds; YYYY-MM-DD or YYYY-MM-DDTHH:MM:SSZ, in UTC; or "+" and a
 * duration from now.  Unix seconds up to DATE_MAX, or -1.
 */
long long date_parse(const char *s, time_t now);

/* buf, which holds "YYYY-MM-DDTHH:MM:SSZ"; t is at most DATE_MAX */
const char *date_text(long long t, char *buf, size_t size);


#endif /* _CTL_DATE_H_INCLUDED_ */
