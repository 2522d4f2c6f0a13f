# The surroundings of a cluster on Azure: network, Kubernetes, and what it may use. See ../README.md.
terraform {
  required_version = ">= 1.7"
  required_providers {
    azurerm = { source = "hashicorp/azurerm", version = "~> 4.10" }
    random  = { source = "hashicorp/random", version = "~> 3.6" }
  }
}

provider "azurerm" {
  subscription_id = var.subscription
  features {}
}

data "azurerm_client_config" "me" {}

locals {
  tags = { project = var.name }
}

resource "azurerm_resource_group" "all" {
  name     = var.name
  location = var.region
  tags     = local.tags
}

# ------------------------------------------------------------------------------------------ network

resource "azurerm_virtual_network" "net" {
  name                = var.name
  location            = azurerm_resource_group.all.location
  resource_group_name = azurerm_resource_group.all.name
  address_space       = [var.cidr]
  tags                = local.tags
}

resource "azurerm_subnet" "members" {
  name                 = "members"
  resource_group_name  = azurerm_resource_group.all.name
  virtual_network_name = azurerm_virtual_network.net.name
  address_prefixes     = [cidrsubnet(var.cidr, 4, 0)]
}

resource "azurerm_subnet" "store" {
  name                 = "store"
  resource_group_name  = azurerm_resource_group.all.name
  virtual_network_name = azurerm_virtual_network.net.name
  address_prefixes     = [cidrsubnet(var.cidr, 8, 200)]
  delegation {
    name = "postgres"
    service_delegation {
      name = "Microsoft.DBforPostgreSQL/flexibleServers"
    }
  }
}

resource "azurerm_network_security_group" "members" {
  name                = "${var.name}-members"
  location            = azurerm_resource_group.all.location
  resource_group_name = azurerm_resource_group.all.name
  security_rule {
    name                       = "clients"
    priority                   = 100
    direction                  = "Inbound"
    access                     = "Allow"
    protocol                   = "Tcp"
    source_port_range          = "*"
    source_address_prefixes    = var.clients
    destination_port_range     = "443"
    destination_address_prefix = "*"
  }
}

resource "azurerm_subnet_network_security_group_association" "members" {
  subnet_id                 = azurerm_subnet.members.id
  network_security_group_id = azurerm_network_security_group.members.id
}

# --------------------------------------------------------------------------------------- Kubernetes

resource "azurerm_kubernetes_cluster" "main" {
  name                      = var.name
  location                  = azurerm_resource_group.all.location
  resource_group_name       = azurerm_resource_group.all.name
  dns_prefix                = var.name
  kubernetes_version        = var.kubernetes_version
  sku_tier                  = "Standard"
  oidc_issuer_enabled       = true
  workload_identity_enabled = true
  default_node_pool {
    name           = "members"
    vm_size        = var.machine
    node_count     = 3
    zones          = ["1", "2", "3"]
    vnet_subnet_id = azurerm_subnet.members.id
  }
  network_profile {
    network_plugin = "azure"
    network_policy = "azure"
    service_cidr   = var.service_cidr
    dns_service_ip = cidrhost(var.service_cidr, 10)
  }
  api_server_access_profile {
    authorized_ip_ranges = var.operators
  }
  identity {
    type = "SystemAssigned"
  }
  tags = local.tags
}

# ------------------------------------------------------------------------------------- PostgreSQL, Redis

resource "random_password" "store" {
  length  = 32
  special = false
}

resource "azurerm_private_dns_zone" "store" {
  count               = var.shared_store ? 1 : 0
  name                = "${var.name}.postgres.database.azure.com"
  resource_group_name = azurerm_resource_group.all.name
}

resource "azurerm_private_dns_zone_virtual_network_link" "store" {
  count                 = var.shared_store ? 1 : 0
  name                  = var.name
  resource_group_name   = azurerm_resource_group.all.name
  private_dns_zone_name = azurerm_private_dns_zone.store[0].name
  virtual_network_id    = azurerm_virtual_network.net.id
}

resource "azurerm_postgresql_flexible_server" "store" {
  count                         = var.shared_store ? 1 : 0
  name                          = "${var.name}-store"
  location                      = azurerm_resource_group.all.location
  resource_group_name           = azurerm_resource_group.all.name
  version                       = "16"
  sku_name                      = var.store_machine
  storage_mb                    = var.store_gb * 1024
  zone                          = "1"
  administrator_login           = "acordo"
  administrator_password        = random_password.store.result
  delegated_subnet_id           = azurerm_subnet.store.id
  private_dns_zone_id           = azurerm_private_dns_zone.store[0].id
  public_network_access_enabled = false
  backup_retention_days         = 14
  high_availability {
    mode                      = "ZoneRedundant"
    standby_availability_zone = "2"
  }
  tags       = local.tags
  depends_on = [azurerm_private_dns_zone_virtual_network_link.store]
}

resource "azurerm_postgresql_flexible_server_database" "store" {
  count     = var.shared_store ? 1 : 0
  name      = "acordo"
  server_id = azurerm_postgresql_flexible_server.store[0].id
  charset   = "UTF8"
}

resource "azurerm_redis_cache" "cache" {
  count                         = var.cache ? 1 : 0
  name                          = "${var.name}-cache"
  location                      = azurerm_resource_group.all.location
  resource_group_name           = azurerm_resource_group.all.name
  family                        = "C"
  sku_name                      = "Standard"
  capacity                      = 2
  non_ssl_port_enabled          = false
  minimum_tls_version           = "1.2"
  public_network_access_enabled = false
  tags                          = local.tags
}

# RabbitMQ is not offered as a service here: run it in the cluster, with its own operator.

# --------------------------------------------------------------------------------- secrets, backups

resource "random_password" "members" {
  length  = 64
  special = false
}

resource "azurerm_key_vault" "secrets" {
  name                       = "${var.name}-secrets"
  location                   = azurerm_resource_group.all.location
  resource_group_name        = azurerm_resource_group.all.name
  tenant_id                  = data.azurerm_client_config.me.tenant_id
  sku_name                   = "standard"
  rbac_authorization_enabled = true
  purge_protection_enabled   = true
  tags                       = local.tags
}

resource "azurerm_role_assignment" "secrets" {
  scope                = azurerm_key_vault.secrets.id
  role_definition_name = "Key Vault Secrets Officer"
  principal_id         = data.azurerm_client_config.me.object_id
}

resource "azurerm_key_vault_secret" "raft" {
  name         = "raft"
  key_vault_id = azurerm_key_vault.secrets.id
  value        = random_password.members.result
  depends_on   = [azurerm_role_assignment.secrets]
}

resource "azurerm_key_vault_secret" "store" {
  count        = var.shared_store ? 1 : 0
  name         = "store"
  key_vault_id = azurerm_key_vault.secrets.id
  value        = "postgresql://acordo:${random_password.store.result}@${azurerm_postgresql_flexible_server.store[0].fqdn}/acordo"
  depends_on   = [azurerm_role_assignment.secrets]
}

resource "azurerm_key_vault_secret" "cache" {
  count        = var.cache ? 1 : 0
  name         = "cache"
  key_vault_id = azurerm_key_vault.secrets.id
  value        = "rediss://:${azurerm_redis_cache.cache[0].primary_access_key}@${azurerm_redis_cache.cache[0].hostname}:${azurerm_redis_cache.cache[0].ssl_port}"
  depends_on   = [azurerm_role_assignment.secrets]
}

resource "azurerm_storage_account" "backups" {
  name                            = var.backup_account
  location                        = azurerm_resource_group.all.location
  resource_group_name             = azurerm_resource_group.all.name
  account_tier                    = "Standard"
  account_replication_type        = "ZRS"
  min_tls_version                 = "TLS1_2"
  allow_nested_items_to_be_public = false
  blob_properties {
    versioning_enabled = true
  }
  tags = local.tags
}

resource "azurerm_storage_container" "backups" {
  name               = "backups"
  storage_account_id = azurerm_storage_account.backups.id
}

resource "azurerm_storage_container_immutability_policy" "backups" {
  storage_container_resource_manager_id = azurerm_storage_container.backups.id
  immutability_period_in_days           = var.backup_days
}
