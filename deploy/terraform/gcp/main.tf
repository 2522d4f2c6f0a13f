# The surroundings of a cluster on GCP: network, Kubernetes, and what it may use. See ../README.md.
terraform {
  required_version = ">= 1.7"
  required_providers {
    google = { source = "hashicorp/google", version = "~> 6.12" }
    random = { source = "hashicorp/random", version = "~> 3.6" }
  }
}

provider "google" {
  project = var.project
  region  = var.region
}

data "google_compute_zones" "here" {
  region = var.region
}

locals {
  zones  = slice(data.google_compute_zones.here.names, 0, 3)
  labels = { project = var.name }
}

# ------------------------------------------------------------------------------------------ network

resource "google_compute_network" "net" {
  name                    = var.name
  auto_create_subnetworks = false
}

resource "google_compute_subnetwork" "members" {
  name                     = "${var.name}-members"
  network                  = google_compute_network.net.id
  region                   = var.region
  ip_cidr_range            = cidrsubnet(var.cidr, 4, 0)
  private_ip_google_access = true
  secondary_ip_range {
    range_name    = "pods"
    ip_cidr_range = cidrsubnet(var.cidr, 2, 1)
  }
  secondary_ip_range {
    range_name    = "services"
    ip_cidr_range = cidrsubnet(var.cidr, 4, 15)
  }
}

resource "google_compute_router" "out" {
  name    = var.name
  network = google_compute_network.net.id
}

resource "google_compute_router_nat" "out" {
  name                               = var.name
  router                             = google_compute_router.out.name
  nat_ip_allocate_option             = "AUTO_ONLY"
  source_subnetwork_ip_ranges_to_nat = "ALL_SUBNETWORKS_ALL_IP_RANGES"
}

resource "google_compute_global_address" "services" {
  name          = "${var.name}-services"
  purpose       = "VPC_PEERING"
  address_type  = "INTERNAL"
  prefix_length = 20
  network       = google_compute_network.net.id
}

resource "google_service_networking_connection" "services" {
  network                 = google_compute_network.net.id
  service                 = "servicenetworking.googleapis.com"
  reserved_peering_ranges = [google_compute_global_address.services.name]
}

# --------------------------------------------------------------------------------------- Kubernetes

resource "google_service_account" "machines" {
  account_id = "${var.name}-machines"
}

resource "google_project_iam_member" "machines" {
  for_each = toset(["roles/logging.logWriter", "roles/monitoring.metricWriter", "roles/artifactregistry.reader"])
  project  = var.project
  role     = each.value
  member   = "serviceAccount:${google_service_account.machines.email}"
}

resource "google_container_cluster" "main" {
  name                     = var.name
  location                 = var.region
  node_locations           = local.zones
  network                  = google_compute_network.net.id
  subnetwork               = google_compute_subnetwork.members.id
  initial_node_count       = 1
  remove_default_node_pool = true
  deletion_protection      = true
  datapath_provider        = "ADVANCED_DATAPATH"
  ip_allocation_policy {
    cluster_secondary_range_name  = "pods"
    services_secondary_range_name = "services"
  }
  private_cluster_config {
    enable_private_nodes    = true
    enable_private_endpoint = false
    master_ipv4_cidr_block  = var.master_cidr
  }
  master_authorized_networks_config {
    dynamic "cidr_blocks" {
      for_each = toset(var.operators)
      content {
        cidr_block = cidr_blocks.value
      }
    }
  }
  workload_identity_config {
    workload_pool = "${var.project}.svc.id.goog"
  }
  resource_labels = local.labels
}

resource "google_container_node_pool" "members" {
  name           = "members"
  cluster        = google_container_cluster.main.id
  node_locations = local.zones
  node_count     = 1 # in each zone
  node_config {
    machine_type    = var.machine
    disk_type       = "pd-balanced"
    service_account = google_service_account.machines.email
    oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]
    workload_metadata_config {
      mode = "GKE_METADATA"
    }
  }
}

# ------------------------------------------------------------------------------------- PostgreSQL, Redis

resource "random_password" "store" {
  length  = 32
  special = false
}

resource "google_sql_database_instance" "store" {
  count               = var.shared_store ? 1 : 0
  name                = "${var.name}-store"
  database_version    = "POSTGRES_16"
  region              = var.region
  deletion_protection = true
  settings {
    tier              = var.store_machine
    edition           = "ENTERPRISE"
    availability_type = "REGIONAL"
    disk_size         = var.store_gb
    disk_type         = "PD_SSD"
    ip_configuration {
      ipv4_enabled    = false
      private_network = google_compute_network.net.id
      ssl_mode        = "ENCRYPTED_ONLY"
    }
    backup_configuration {
      enabled                        = true
      point_in_time_recovery_enabled = true
      backup_retention_settings {
        retained_backups = 14
      }
    }
  }
  depends_on = [google_service_networking_connection.services]
}

resource "google_sql_database" "store" {
  count    = var.shared_store ? 1 : 0
  name     = "acordo"
  instance = google_sql_database_instance.store[0].name
}

resource "google_sql_user" "store" {
  count    = var.shared_store ? 1 : 0
  name     = "acordo"
  instance = google_sql_database_instance.store[0].name
  password = random_password.store.result
}

resource "google_redis_instance" "cache" {
  count                   = var.cache ? 1 : 0
  name                    = "${var.name}-cache"
  tier                    = "STANDARD_HA"
  memory_size_gb          = 3
  region                  = var.region
  authorized_network      = google_compute_network.net.id
  connect_mode            = "PRIVATE_SERVICE_ACCESS"
  auth_enabled            = true
  transit_encryption_mode = "SERVER_AUTHENTICATION"
  depends_on              = [google_service_networking_connection.services]
}

# RabbitMQ is not offered as a service here: run it in the cluster, with its own operator.

# --------------------------------------------------------------------------------- secrets, backups

resource "random_password" "members" {
  length  = 64
  special = false
}

resource "google_secret_manager_secret" "acordo" {
  for_each  = toset(concat(["raft"], var.shared_store ? ["store"] : [], var.cache ? ["cache"] : []))
  secret_id = "${var.name}-${each.value}"
  replication {
    user_managed {
      replicas {
        location = var.region
      }
    }
  }
}

resource "google_secret_manager_secret_version" "raft" {
  secret      = google_secret_manager_secret.acordo["raft"].id
  secret_data = random_password.members.result
}

resource "google_secret_manager_secret_version" "store" {
  count       = var.shared_store ? 1 : 0
  secret      = google_secret_manager_secret.acordo["store"].id
  secret_data = "postgresql://acordo:${random_password.store.result}@${google_sql_database_instance.store[0].private_ip_address}/acordo"
}

resource "google_secret_manager_secret_version" "cache" {
  count       = var.cache ? 1 : 0
  secret      = google_secret_manager_secret.acordo["cache"].id
  secret_data = "rediss://:${google_redis_instance.cache[0].auth_string}@${google_redis_instance.cache[0].host}:${google_redis_instance.cache[0].port}"
}

resource "google_storage_bucket" "backups" {
  name                        = var.backup_bucket
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  versioning {
    enabled = true
  }
  retention_policy {
    retention_period = var.backup_days * 86400
  }
  labels = local.labels
}

resource "google_service_account" "backup" {
  account_id = "${var.name}-backup"
}

# The job that writes backups: it may add objects, and neither delete nor replace them.
resource "google_storage_bucket_iam_member" "backup" {
  bucket = google_storage_bucket.backups.name
  role   = "roles/storage.objectCreator"
  member = "serviceAccount:${google_service_account.backup.email}"
}
