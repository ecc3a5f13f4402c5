
/*
 * Owns the course of an examination: which checks are made of which server,
 * in which order.  Both servers' connections are open until the end, as the
 * last check compares them.  Changes nothing in Redis.
 */


#include <string.h>

#include <jansson.h>

#include "doctor.h"
#include "doctor_policy.h"
#include "doctor_server.h"
#include "doctor_side.h"
#include "doctor_store.h"
#include "doctor_tracking.h"
#include "output.h"


static void
doctor_init(side_t *side, const ctl_t *ctl, side_findings_t *findings,
    const char *label)
{
    memset(side, 0, sizeof(side_t));
    side->ctl = ctl;
    side->findings = findings;
    side->label = label;
}


static void
doctor_keys(side_t *side)
{
    side->is_keys = true;

    if (!doctor_server(side, &side->ctl->keys)) {
        return;
    }

    if (side->master) {
        doctor_server_leases(side);
    }

    doctor_tracking(side);
    doctor_tracking_gateways(side);
    doctor_store_meta(side);
    doctor_policy_keys(side);
    doctor_policy_persistence(side);
    doctor_store_names(side);
}


static void
doctor_bodies(side_t *side)
{
    if (side->ctl->value[O_CACHE_REDIS] == NULL
        || !doctor_server(side, &side->ctl->bodies))
    {
        return;
    }

    if (side->master) {
        doctor_server_locks(side);
    }

    doctor_policy_bodies(side);
}


rc_t
doctor_handler(const ctl_t *ctl)
{
    side_t           keys, bodies, both;
    side_findings_t  findings;

    findings.checks = ctl->json ? json_array() : NULL;
    findings.failed = 0;

    doctor_init(&keys, ctl, &findings, "keys");
    doctor_init(&bodies, ctl, &findings, "bodies");
    doctor_init(&both, ctl, &findings, NULL);

    doctor_keys(&keys);
    doctor_bodies(&bodies);
    doctor_policy_apart(&both, &keys, &bodies);

    side_free(&keys);
    side_free(&bodies);

    if (ctl->json) {
        output_json(json_pack("{s:b, s:o}", "ok", findings.failed == 0,
                              "checks", findings.checks));
    }

    return findings.failed ? RC_FAILED : RC_OK;
}
