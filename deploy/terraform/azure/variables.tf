variable "name" {
  type    = string
  default = "acordo"
}

variable "subscription" {
  type = string
}

variable "region" {
  type        = string
  description = "where the data lies: brazilsouth, eastus, germanywestcentral, …"
}

variable "cidr" {
  type    = string
  default = "10.0.0.0/16"
}

variable "service_cidr" {
  type    = string
  default = "10.100.0.0/16"
}

variable "operators" {
  type        = list(string)
  description = "addresses from which Kubernetes is operated"
}

variable "clients" {
  type        = list(string)
  description = "addresses of those who use the cluster"
}

variable "kubernetes_version" {
  type    = string
  default = "1.34"
}

variable "machine" {
  type    = string
  default = "Standard_D2s_v5"
}

variable "shared_store" {
  type        = bool
  description = "false: each member keeps its own store, and there is no database"
  default     = false
}

variable "store_machine" {
  type    = string
  default = "GP_Standard_D2ds_v5"
}

variable "store_gb" {
  type    = number
  default = 64
}

variable "cache" {
  type    = bool
  default = false
}

variable "backup_account" {
  type        = string
  description = "a name that nobody in the world has yet: lower-case letters and digits"
}

variable "backup_days" {
  type    = number
  default = 14
}
