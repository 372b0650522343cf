//! What outlives a stream: shared data, stats, calls to other clusters, ticks.

use crate::scenario::Scenario;

scenarios! {
    shared_data_is_written_by_number: Scenario::guest()
        .get("rh:value=k;rh:put=k,a;rh:value=k;rh:put_after=k,b,0;rh:value=k;rh:put_after=k,c,1;rh:value=k;\
              rh:put=k,d,0;\
              rh:value=k;rh:put=n,x,7;rh:value=n;rh:put=n,;rh:value=n")
        .respond_empty(200);

    a_queue_wakes_whoever_registered_it: Scenario::guest()
        .get("rh:enqueue=@,none;rh:queue=@;rh:queue=@;rh:enqueue=@,one;rh:enqueue=@,two").pass(50).respond_empty(200);

    the_same_metric_is_defined_twice: Scenario::guest()
        .get("rh:try_define=0,@.c;rh:try_define=0,@.c;rh:try_define=1,@.g;rh:try_define=2,@.h;rh:try_define=1,@.c;\
              rh:try_increment=4,1;rh:try_increment=8,2;rh:try_get=4;rh:try_get=8")
        .respond_empty(200);

    metrics_refuse_what_is_not_theirs: Scenario::guest()
        .get("rh:try_define=0,@.c;rh:try_define=1,@.g;rh:try_define=2,@.h;rh:try_define=3,@.x;rh:try_define=9,@.y;\
              rh:try_increment=4,0;rh:try_increment=4,-1;rh:try_record=4,5;rh:try_get=4;\
              rh:try_increment=6,1;rh:try_record=6,5;rh:try_get=6;\
              rh:try_increment=99,1;rh:try_record=99,1;rh:try_get=99;rh:try_increment=400,1;rh:try_record=400,1;rh:try_get=400;\
              rh:try_increment=403,1;rh:try_record=403,1;rh:try_get=403;rh:try_increment=401,1;rh:try_record=402,1;\
              rh:try_get=402")
        .respond_empty(200);

    a_gauge_goes_up_and_down: Scenario::guest()
        .get("rh:try_define=1,@.g;rh:try_increment=5,7;rh:try_increment=5,-3;rh:try_get=5;rh:try_record=5,2;\
              rh:try_get=5;rh:try_increment=5,0")
        .respond_empty(200);

    a_gauge_goes_below_nothing: Scenario::guest()
        .get("rh:try_define=1,@.g;rh:try_record=5,2;rh:try_increment=5,-3;rh:try_get=5;rh:try_increment=5,3;\
              rh:try_get=5")
        .respond_empty(200);

    a_call_has_its_response: Scenario::guest().get("call:try_header=6,:status;call:try_body=4,0,99;\
              rh:call=backend,500").pass(100).respond_empty(200);

    a_second_call_has_a_token_of_its_own: Scenario::guest()
        .get("rh:call=backend,500").pass(50).respond_empty(200)
        .get("rh:call=backend,500").pass(50).respond_empty(200);

    a_call_whose_cluster_has_no_host: Scenario::guest().get("call:try_pairs=6;call:try_body=4,0,99;\
              rh:call=dead,500").pass(100).respond_empty(200);

    a_call_whose_response_is_late: Scenario::guest().get("call:try_pairs=6;call:try_body=4,0,99;\
              rh:call=silent,50").pass(150).respond_empty(200);

    a_call_to_a_cluster_without_hosts: Scenario::guest().get("call:try_pairs=6;call:try_body=4,0,99;\
              rh:call=nowhere,50").pass(100).respond_empty(200);

    a_call_to_an_unknown_cluster: Scenario::guest().get("rh:call=unknown,50").respond_empty(200);

    a_call_without_pseudo_headers: Scenario::guest().get("call:try_header=6,:status;call:try_body=4,0,99;\
              rh:call=backend,bare").respond_empty(200);

    a_call_outlives_its_stream: Scenario::guest()
        .get("call:try_header=6,:status;call:try_body=4,0,99;rh:call=backend,500;rh:reply=200").pass(100);

    an_unknown_context_cannot_be_made_effective: Scenario::guest()
        .post("rh:park;rh:pause").leave().get("rh:unpark;rh:header=:path").respond_empty(200);
}
