# Every verb of the deployment. What has logic is Python: src/multisite/console. Settings: .env (see .env.example).
# Options and settings by variable: make submit ROUNDS=20 ALPHA=0.5. The console refuses a name that it does not know.
given = $(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(name)))
CONSOLE = MAKE_VARIABLES="$(given)" PYTHONPATH=src python3 -m multisite.console

.DEFAULT_GOAL = help
.PHONY: help up submit submit-client-stream follow status sync logs results abort kit down clean check test test-fast test-next test-faults bench bench-metrics

help: ## this list
	@awk -F ':.*## ' '/^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Run
up: ## build, provision, prepare the data, start; return when every site is registered
	@$(CONSOLE) up

submit: ## run the CIFAR-10 job (clients -> server -> W&B) and bring its results [PRESET ROUNDS LOCAL_EPOCHS BATCH_SIZE LR ALPHA NETWORK SITES SEED LOG_MODEL WAIT_SECONDS MAX_EXAMPLES]
	@$(CONSOLE) submit

submit-client-stream: ## the same, each site straight to W&B: the key moves to the sites
	@$(CONSOLE) submit-client-stream

follow: ## watch a running job [JOB]
	@$(CONSOLE) follow

abort: ## end a running job [JOB]
	@$(CONSOLE) abort

sync: ## deliver every metric that W&B has not confirmed yet, of any job; safe to repeat
	@$(CONSOLE) sync

##@ Look
status: ## participants, jobs, and the account of their metrics
	@$(CONSOLE) status

logs: ## follow every container's log
	@docker compose logs --follow --tail 100

results: ## bring a finished job's results to results/ [JOB]
	@$(CONSOLE) results

##@ Other hosts
kit: ## write the startup kit of a site on another host to kits/ [SITE]
	@$(CONSOLE) kit

##@ Stop and delete
down: ## stop and remove containers and networks; keys, data and results stay
	@$(CONSOLE) down

clean: ## delete by name: WHAT=keys,data,state,results,images (or all)
	@$(CONSOLE) clean

##@ Tests and measurements
check: ## lint, format and types, in the test image
	@docker/test.sh check

test-fast: ## unit and simulator tests, and the console's with Python 3.9 to 3.13
	@docker/test.sh fast

test-next: ## unit and simulator tests and one job, with the newest NVFlare of the package index, pre-releases too
	@docker/test.sh newest

test-faults: ## every fault that metrics must survive, both ways of streaming (about 40 minutes)
	@docker/test.sh faults

bench: ## what federation costs: rounds, start, end; beside plain PyTorch, the simulator, stock containers [QUICK=1, PATCHES=each]
	@docker/test.sh bench

bench-metrics: ## what metrics cost, beside NVFlare's own path [QUICK=1]
	@docker/test.sh bench-metrics

test: ## set up everything and run the tests: lint, types, unit, simulator, e2e; all but test-faults
	@docker/test.sh all
